"""Which channels may be multiplied by a number without any change to the model's outputs.

    y = relu(W x + b), z = V y    equals    y' = relu(s W x + s b), z = (V / s) y'

for every s > 0 per channel of y. The channel units (`onnxlite.analysis.channels`) say where a
channel goes; it may be multiplied if every operator on its way passes a positive factor on, and
it begins and ends in constants of layers. Nothing here knows a topology. The idea is that of
Nagel et al. 2019 (data-free quantization, sec. 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.units import Binding
from onnxlite.graph import add_initializer, const_array, value_names
from onnxlite.ops import Ids, output_bounds, spec_of, tracked_axes

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class ScaledConstant:
    """A constant of one node, one axis of which follows a channel's factor.

    Attributes:
        node: the reader of the constant.
        port: where it reads it.
        axis: of the constant.
        line: int[size], the unit of every slice.
        power: 1 where the slice is multiplied by the factor, -1 where it is divided.
    """

    node: ir.Node
    port: int
    axis: int
    line: Ids
    power: int


@dataclass(frozen=True)
class ScalableChannels:
    """What may be scaled, and what has to be rewritten for it.

    Attributes:
        free: bool[units], whether a unit may be multiplied.
        slots: the constants that follow.
        clips: the outputs of activations with an upper bound: what passes there must stay
            below it.
    """

    free: NDArray[np.bool_]
    slots: tuple[ScaledConstant, ...]
    clips: tuple[ir.Value, ...]


def find_scalable_channels(model: ir.Model, channels: ChannelMap) -> ScalableChannels:
    """Find the units that may be multiplied by positive numbers."""
    free = np.zeros(len(channels.root), bool)
    bound: dict[tuple[ir.Node, int], list[Binding]] = {}
    for group in channels.groups:
        if group.pin is None:
            free[group.units] = True
    for binding in channels.bindings:
        for use in binding.uses:
            bound.setdefault(use, []).append(binding)
    slots: list[ScaledConstant] = []
    clips: list[ir.Value] = []
    for node in model.graph:
        touched = _units(channels, (*node.inputs, *node.outputs))
        if not touched.size:
            continue
        found = _slots(node, channels, bound)
        if found is None:
            free[touched] = False
            continue
        slots += found
        limits = output_bounds(node)
        if limits is not None and np.isfinite(limits[1]):
            clips.append(node.outputs[0])
    return ScalableChannels(free, tuple(slots), tuple(clips))


def _units(channels: ChannelMap, values: tuple[ir.Value | None, ...]) -> Ids:
    ids = [channels.values[v] for v in values if v is not None and v in channels.values]
    found = [channels.root[part].reshape(-1) for part in ids]
    units: Ids = np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))
    real: Ids = units[units != 0]
    return real


def _slots(
    node: ir.Node, channels: ChannelMap, bound: Mapping[tuple[ir.Node, int], list[Binding]]
) -> list[ScaledConstant] | None:
    """The constants of `node` that follow its channels' factors; None if it passes none on."""
    spec = spec_of(node)
    if spec.quant is not None and spec.quant.weight is not None:
        return _layer_slots(node, channels, bound)
    if spec.sums:
        return _sum_slots(node, channels, bound)
    limits = output_bounds(node)
    # What is clipped at zero passes a factor on; an upper bound is the caller's to heed.
    passes = limits is not None and limits[0] in (0.0, -np.inf)
    if not (passes or spec.linear) or any((node, p) in bound for p in range(len(node.inputs))):
        return None
    return []


def _layer_slots(
    node: ir.Node, channels: ChannelMap, bound: Mapping[tuple[ir.Node, int], list[Binding]]
) -> list[ScaledConstant] | None:
    spec = spec_of(node)
    assert spec.quant is not None
    port, bias = spec.quant.weight, spec.quant.bias
    if port is None or spec.output_axis is None or spec.summed_axes is None:
        return None
    out_axis, summed = spec.output_axis(node, port), spec.summed_axes(node, port)
    slots = []
    for binding in bound.get((node, port), []):
        if len(binding.uses) > 1 or binding.line.ndim != 1:
            return None
        power = 1 if binding.axis == out_axis else -1 if binding.axis in summed else 0
        if not power:
            return None
        slots.append(ScaledConstant(node, port, binding.axis, channels.root[binding.line], power))
    entering = _line(channels, node.inputs[0])
    leaving = _line(channels, node.outputs[0])
    if entering is None or leaving is None:
        return None
    has_in = any(slot.power < 0 for slot in slots)
    if entering.any() and not has_in:
        # A depthwise layer: the factor that comes in goes out.
        if not np.array_equal(entering, leaving):
            return None
        slots = []
    elif leaving.any() and not any(slot.power > 0 for slot in slots):
        return None
    if bias is not None:
        for binding in bound.get((node, bias), []):
            slots.append(ScaledConstant(node, bias, binding.axis, channels.root[binding.line], 1))
    return slots


def _line(channels: ChannelMap, value: ir.Value | None) -> Ids | None:
    """The units along the one axis that has some; zeros without any; None with several axes."""
    ids = None if value is None else channels.values.get(value)
    if ids is None:
        return np.zeros(1, np.int64)
    if len(tracked_axes(ids)) > 1:
        return None
    line: Ids = channels.root[ids].reshape(-1)
    return line


def _sum_slots(
    node: ir.Node, channels: ChannelMap, bound: Mapping[tuple[ir.Node, int], list[Binding]]
) -> list[ScaledConstant] | None:
    """A sum passes a factor on if both sides have it: the same units, or a constant's slices."""
    slots = []
    for port, value in enumerate(node.inputs):
        if value is None or value in channels.values:
            continue
        own = bound.get((node, port), [])
        if len(own) != 1 or own[0].line.ndim != 1 or const_array(value) is None:
            return None
        slots.append(ScaledConstant(node, port, own[0].axis, channels.root[own[0].line], 1))
    lines = {
        channels.root[channels.values[v]].tobytes()
        for v in node.inputs
        if v is not None and v in channels.values
    }
    return slots if len(lines) == 1 else None


def rescale(
    model: ir.Model, slots: tuple[ScaledConstant, ...], factor: Array64
) -> Callable[[], None]:
    """Multiply channels by `factor` (float64[units], 1 for those to leave), in place.

    Every changed constant becomes an initializer of its own.

    Returns:
        What undoes it.
    """
    names = value_names(model)
    initializers = model.graph.initializers
    changed: list[tuple[ir.Node, int, ir.Value, ir.Value]] = []
    for (node, port), array in list(_rewritten(slots, factor)):
        old = node.inputs[port]
        assert old is not None
        new = add_initializer(model.graph, names.fresh(f"{old.name}_scaled"), array)
        node.replace_input_with(port, new)
        changed.append((node, port, old, new))
        if not old.uses() and not old.is_graph_output():
            initializers.pop(old.name or "", None)

    def undo() -> None:
        for node, port, old, new in reversed(changed):
            node.replace_input_with(port, old)
            initializers.pop(new.name or "", None)
            if old.name is not None and old.producer() is None:
                initializers[old.name] = old

    return undo


def _rewritten(
    slots: tuple[ScaledConstant, ...], factor: Array64
) -> Iterator[tuple[tuple[ir.Node, int], NDArray[Any]]]:
    by_constant: dict[tuple[ir.Node, int], list[ScaledConstant]] = {}
    for slot in slots:
        if (factor[slot.line] != 1).any():
            by_constant.setdefault((slot.node, slot.port), []).append(slot)
    for (node, port), own in by_constant.items():
        array = const_array(node.inputs[port])
        assert array is not None
        exact = array.astype(np.float64)
        for slot in own:
            shape = [-1 if axis == slot.axis else 1 for axis in range(array.ndim)]
            exact = exact * (factor[slot.line] ** slot.power).reshape(shape)
        yield (node, port), exact.astype(array.dtype)
