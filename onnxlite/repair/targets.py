"""Fit targets: for each layer of the compressed model a value of the reference.

A layer whose output alone goes into a sum is fitted to the sum less its other side, so that it
makes up for what the other branch lacks (He et al. 2017, sec. 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import origin_of
from onnxlite.graph import const_array, const_tensor, is_op, node_name, sole_consumer, values_read
from onnxlite.ops import LinearLayer, find_layers, spec_of
from onnxlite.records import Skipped
from onnxlite.repair.regression import NO_CLIP, Clip

STEP = "repair"
_TERMS = 2


@dataclass(frozen=True)
class FitTarget:
    """The reference's counterpart of a layer's output.

    Attributes:
        value: of the reference, of the output's shape but for the channels.
        kept: the channels of it that the layer still has; None means all.
        addend: what the compressed model adds to the layer's output, float of the output's
            shape; then `value` is the sum.
    """

    value: ir.Value
    kept: tuple[int, ...] | None
    addend: ir.Value | None = None

    def channels(self, array: NDArray[Any], axis: int) -> NDArray[Any]:
        """Return the kept channels of the computed value, moved to the last axis."""
        moved = np.moveaxis(array, axis, -1)
        return moved if self.kept is None else moved[..., list(self.kept)]


@dataclass(frozen=True)
class FitPair:
    """A layer and what it is fitted to."""

    layer: LinearLayer
    target: FitTarget

    @property
    def reads(self) -> list[ir.Value]:
        """Values of the compressed model that the fit needs, in the order of their visits."""
        addend = self.target.addend
        return [self.layer.data] if addend is None else [addend, self.layer.data]

    @property
    def clip(self) -> Clip:
        """Bounds of the activation or quantizer that alone reads the output, or its sum."""
        value = self.layer.output
        if self.target.addend is not None:
            node = sole_consumer(value)
            assert node is not None
            value = node.outputs[0]
        reader = sole_consumer(value)
        if reader is None:
            return NO_CLIP
        if is_op(reader, "QuantizeLinear"):
            return _quantizer_range(reader)
        output_range = spec_of(reader).output_range
        bounds = None if output_range is None else output_range(reader)
        return bounds or NO_CLIP


def match_layers(
    reference: ir.Model,
    candidate: ir.Model,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[list[FitPair], list[Skipped]]:
    """Pair the layers of a compressed model with their targets, in topological order.

    Args:
        reference: with shapes.
        candidate: made from it, with shapes.
        include: patterns of node or weight names; empty means all.
        exclude: patterns of names to leave alone.

    Returns:
        The pairs, and the layers that cannot be fitted, with the reason.

    Raises:
        OptionError: a pattern matches no layer.
    """
    layers, skipped = find_layers(candidate, include=include, exclude=exclude)
    values = _ReferenceValues(reference)
    pairs = []
    for layer in layers:
        target = values.target_of(layer, candidate)
        if isinstance(target, str):
            skipped.append(Skipped(STEP, node_name(layer.node), "no-target", target))
        elif not layer.owns_weight and layer.bias_node is None:
            reason = f"its weight {layer.weight.name!r} is shared, and it has no bias"
            skipped.append(Skipped(STEP, node_name(layer.node), "shared-weight", reason))
        else:
            pairs.append(FitPair(layer, target))
    return _with_sum_targets(reference, candidate, pairs), skipped


class _ReferenceValues:
    """Values of the reference by their name and by the name of their node."""

    def __init__(self, reference: ir.Model) -> None:
        self._named = {value.name: value for node in reference.graph for value in node.outputs}
        self._of_node = {node.name: node.outputs[0] for node in reference.graph if node.outputs}
        self._of_node |= {layer.node.name: layer.output for layer in find_layers(reference)[0]}

    def target_of(self, layer: LinearLayer, candidate: ir.Model) -> FitTarget | str:
        """Find a layer's target, or say why it has none.

        A value of the same name is the same tensor, whichever node computes it now (a folded
        BatchNormalization, for example, leaves its output's name to the convolution). A layer
        recorded as renamed, and one whose output has a new name, is found by its node.
        """
        origin = origin_of(candidate, layer.name)
        same = self._named.get(layer.output.name)
        value = same if origin.node == layer.name else None
        value = value or self._of_node.get(origin.node) or same
        if value is None:
            return f"the reference has no value {layer.output.name!r} and no node {origin.node!r}"
        target = FitTarget(value, origin.kept)
        return _shape_mismatch(layer, target) or target


def _with_sum_targets(
    reference: ir.Model, candidate: ir.Model, pairs: Sequence[FitPair]
) -> list[FitPair]:
    """Fit layers whose output alone goes into a sum of two to the sum instead.

    Where a branch has ended, the sum before it has the name of the one after it, and stands in
    its place.
    """
    sums = {node.outputs[0].name: node.outputs[0] for node in reference.graph if spec_of(node).sums}
    last = _last_layer_behind(candidate, pairs)
    result = []
    for index, pair in enumerate(pairs):
        target = _sum_target(pair, sums)
        # A side with a layer that is fitted later will be fitted to the sum itself.
        if target is None or last.get(target.addend, -1) > index:
            result.append(pair)
        else:
            result.append(replace(pair, target=target))
    return result


def _sum_target(pair: FitPair, sums: Mapping[str | None, ir.Value]) -> FitTarget | None:
    """Target of a layer whose output alone goes into a sum, less the sum's other side."""
    output = pair.layer.output
    node = sole_consumer(output)
    whole = None if node is None else sums.get(node.outputs[0].name)
    if node is None or whole is None or whole.shape != pair.target.value.shape:
        return None
    other = _other_term(node, output)
    return None if other is None else FitTarget(whole, pair.target.kept, other)


def _other_term(node: ir.Node, output: ir.Value) -> ir.Value | None:
    """Return the other side of a sum of two, if it is computed and of the same shape."""
    if not spec_of(node).sums or len(node.inputs) != _TERMS:
        return None
    other = node.inputs[1] if node.inputs[0] is output else node.inputs[0]
    if other is None or other.shape is None or const_tensor(other) is not None:
        return None
    return other if other.shape == output.shape else None


def _last_layer_behind(model: ir.Model, pairs: Sequence[FitPair]) -> Mapping[ir.Value | None, int]:
    """For every value the index of the last fitted layer that it depends on, if any."""
    index_of = {pair.layer.node: index for index, pair in enumerate(pairs)}
    last: dict[ir.Value | None, int] = {}
    for node in model.graph:
        behind = max((last.get(value, -1) for value in values_read(node)), default=-1)
        own = max(behind, index_of.get(node, -1))
        if own >= 0:
            last.update((value, own) for value in node.outputs)
    return last


def _quantizer_range(quantize: ir.Node) -> Clip:
    """Smallest and largest number that a QuantizeLinear with one scale can represent."""
    scale = const_array(quantize.inputs[1])
    zero = const_array(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return NO_CLIP
    limits = np.iinfo(zero.dtype)
    low, high = (float(scale) * (limit - int(zero)) for limit in (limits.min, limits.max))
    return low, high


def _shape_mismatch(layer: LinearLayer, target: FitTarget) -> str | None:
    have, wanted = layer.output.shape, target.value.shape
    if have is None or wanted is None:
        return None
    expected: list[object] = list(wanted)
    axis = layer.geometry.channel_axis
    if target.kept is not None and -len(expected) <= axis < len(expected):
        channels = expected[axis]
        beyond = isinstance(channels, int) and max(target.kept, default=0) >= channels
        expected[axis] = "too few" if beyond else len(target.kept)
    dims = zip(have, expected, strict=False)
    differs = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in dims)
    if len(have) != len(expected) or differs or "too few" in expected:
        kept = "all" if target.kept is None else str(len(target.kept))
        return (
            f"its output is {have} and {target.value.name!r} of the reference {wanted}, of which "
            f"{kept} channels are kept by the lineage"
        )
    return None
