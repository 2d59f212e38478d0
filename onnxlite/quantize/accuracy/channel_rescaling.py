"""Channel rescaling: channels that a positive factor may go through without any other effect.

    y = relu(W x + b), z = V y    equals    y' = relu(s W x + s b), z = (V / s) y'

for every s > 0 per channel of y. The channel units (`onnxlite.analysis.channels`) say where a
channel goes; it may be multiplied if every operator on its way passes a positive factor on, and
it begins and ends in constants of layers. Nothing here depends on a topology. The idea is that
of Nagel et al. 2019 (data-free quantization, sec. 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.units import Binding
from onnxlite.builder import GraphBuilder, drop_unused
from onnxlite.graph import const_array
from onnxlite.ops import Ids, output_bounds, spec_of, tracked_axes

Array64 = NDArray[np.float64]
#: What channel units bind of the constant at a node's port.
_Bindings: TypeAlias = Mapping[tuple[ir.Node, int], list[Binding]]


@dataclass(frozen=True)
class ScaledConstant:
    """A constant of one node, one axis of which follows the factors of channels.

    Attributes:
        node: the reader of the constant.
        port: where it reads it.
        axis: of the constant.
        units: int[size], the channel unit of every slice.
        power: 1 where the slice is multiplied by the factor, -1 where it is divided.
    """

    node: ir.Node
    port: int
    axis: int
    units: Ids
    power: int


@dataclass(frozen=True)
class ScalableChannels:
    """Channel units that may be scaled, and the constants to rewrite for it.

    Attributes:
        units: bool[units], whether a unit may be multiplied.
        constants: what follows.
        clips: the outputs of activations with an upper bound, which scaled channels must not
            reach.
    """

    units: NDArray[np.bool_]
    constants: tuple[ScaledConstant, ...]
    clips: tuple[ir.Value, ...]


def find_scalable_channels(model: ir.Model, channels: ChannelMap) -> ScalableChannels:
    """Find the units that may be multiplied by positive numbers."""
    scalable = np.zeros(len(channels.root), bool)
    for group in channels.groups:
        if group.pin is None:
            scalable[group.units] = True
    bindings: dict[tuple[ir.Node, int], list[Binding]] = {}
    for binding in channels.bindings:
        for use in binding.uses:
            bindings.setdefault(use, []).append(binding)
    constants: list[ScaledConstant] = []
    clips: list[ir.Value] = []
    for node in model.graph:
        touched = _touched_units(node, channels)
        if not touched.size:
            continue
        found = _scaled_constants(node, channels, bindings)
        if found is None:
            scalable[touched] = False
            continue
        constants += found
        bounds = output_bounds(node)
        if bounds is not None and np.isfinite(bounds[1]):
            clips.append(node.outputs[0])
    return ScalableChannels(scalable, tuple(constants), tuple(clips))


def _touched_units(node: ir.Node, channels: ChannelMap) -> Ids:
    """The units of everything that a node reads or makes."""
    values = (value for value in (*node.inputs, *node.outputs) if value is not None)
    ids = [channels.values[value] for value in values if value in channels.values]
    found = [channels.root[part].reshape(-1) for part in ids]
    units: Ids = np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))
    real: Ids = units[units != 0]
    return real


def _scaled_constants(
    node: ir.Node, channels: ChannelMap, bindings: _Bindings
) -> list[ScaledConstant] | None:
    """The constants of `node` that follow its channels' factors; None if it passes none on."""
    spec = spec_of(node)
    if spec.quant is not None and spec.quant.weight is not None:
        return _layer_constants(node, channels, bindings)
    if spec.sums:
        return _sum_constants(node, channels, bindings)
    bounds = output_bounds(node)
    # Clipping at zero passes a factor on; the caller keeps channels below upper bounds.
    passes = spec.linear or (bounds is not None and bounds[0] in (0.0, -np.inf))
    bound = any((node, port) in bindings for port in range(len(node.inputs)))
    return [] if passes and not bound else None


def _layer_constants(
    node: ir.Node, channels: ChannelMap, bindings: _Bindings
) -> list[ScaledConstant] | None:
    """Weight and bias of a layer, as far as factors that come in or go out change them."""
    weight = _weight_constants(node, channels, bindings)
    entering = _channel_units(channels, node.inputs[0])
    leaving = _channel_units(channels, node.outputs[0])
    if weight is None or entering is None or leaving is None:
        return None
    if entering.any() and not any(constant.power < 0 for constant in weight):
        # A depthwise layer: the factor that comes in goes out.
        if not np.array_equal(entering, leaving):
            return None
        weight = []
    elif leaving.any() and not any(constant.power > 0 for constant in weight):
        return None
    rule = spec_of(node).quant
    bias = None if rule is None else rule.bias
    if bias is None:
        return weight
    added = [
        ScaledConstant(node, bias, binding.axis, channels.root[binding.line], 1)
        for binding in bindings.get((node, bias), [])
    ]
    return weight + added


def _weight_constants(
    node: ir.Node, channels: ChannelMap, bindings: _Bindings
) -> list[ScaledConstant] | None:
    """Axes of a layer's weight that follow factors; None if one is neither input nor output."""
    spec = spec_of(node)
    port = None if spec.quant is None else spec.quant.weight
    if port is None or spec.output_axis is None or spec.summed_axes is None:
        return None
    powers = dict.fromkeys(spec.summed_axes(node, port), -1)
    if (output_axis := spec.output_axis(node, port)) is not None:
        powers[output_axis] = 1
    found = []
    for binding in bindings.get((node, port), []):
        if len(binding.uses) > 1 or binding.line.ndim != 1 or binding.axis not in powers:
            return None
        units = channels.root[binding.line]
        found.append(ScaledConstant(node, port, binding.axis, units, powers[binding.axis]))
    return found


def _channel_units(channels: ChannelMap, value: ir.Value | None) -> Ids | None:
    """The units along a value's channel axis; zeros without one, None with several."""
    ids = None if value is None else channels.values.get(value)
    if ids is None:
        return np.zeros(1, np.int64)
    if len(tracked_axes(ids)) > 1:
        return None
    units: Ids = channels.root[ids].reshape(-1)
    return units


def _sum_constants(
    node: ir.Node, channels: ChannelMap, bindings: _Bindings
) -> list[ScaledConstant] | None:
    """Constants of a sum; None unless all its terms have the same units or follow as constants."""
    found = []
    for port, value in enumerate(node.inputs):
        if value is None or value in channels.values:
            continue
        own = bindings.get((node, port), [])
        if len(own) != 1 or own[0].line.ndim != 1 or const_array(value) is None:
            return None
        found.append(ScaledConstant(node, port, own[0].axis, channels.root[own[0].line], 1))
    terms = {
        channels.root[channels.values[value]].tobytes()
        for value in node.inputs
        if value is not None and value in channels.values
    }
    return found if len(terms) == 1 else None


def rescale(
    model: ir.Model, constants: tuple[ScaledConstant, ...], factor: Array64
) -> Callable[[], None]:
    """Multiply channels in place; every changed constant becomes an initializer of its own.

    Args:
        model: changed.
        constants: what follows the factors.
        factor: float64[units], 1 for units to leave.

    Returns:
        A function that undoes it.
    """
    builder = GraphBuilder(model)
    initializers = model.graph.initializers
    changed: list[tuple[ir.Node, int, ir.Value, ir.Value]] = []
    for (node, port), array in list(_rescaled(constants, factor)):
        old = node.inputs[port]
        assert old is not None
        new = builder.initializer(model.graph, f"{old.name}_scaled", array)
        node.replace_input_with(port, new)
        changed.append((node, port, old, new))
        drop_unused([old])

    def undo() -> None:
        for node, port, old, new in reversed(changed):
            node.replace_input_with(port, old)
            initializers.pop(new.name or "", None)
            if old.name is not None and old.producer() is None:
                initializers[old.name] = old

    return undo


def _rescaled(
    constants: tuple[ScaledConstant, ...], factor: Array64
) -> Iterator[tuple[tuple[ir.Node, int], NDArray[Any]]]:
    """Yield each constant that changes, by its node and port, with its new numbers."""
    by_use: dict[tuple[ir.Node, int], list[ScaledConstant]] = {}
    for constant in constants:
        if (factor[constant.units] != 1).any():
            by_use.setdefault((constant.node, constant.port), []).append(constant)
    for (node, port), own in by_use.items():
        array = const_array(node.inputs[port])
        assert array is not None
        exact = array.astype(np.float64)
        for constant in own:
            shape = [-1 if axis == constant.axis else 1 for axis in range(array.ndim)]
            exact = exact * (factor[constant.units] ** constant.power).reshape(shape)
        yield (node, port), exact.astype(array.dtype)
