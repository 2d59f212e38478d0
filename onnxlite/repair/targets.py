"""What each layer of the compressed model should output: a value of the reference model."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import origin_of
from onnxlite.graph import const_array, const_tensor, is_op, sole_consumer
from onnxlite.ops import spec_of
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.repair.fit import NO_CLIP, Clip


@dataclass(frozen=True)
class FitTarget:
    """The reference's counterpart of a layer's output.

    Attributes:
        value: of the reference model, the same shape but for the channels.
        kept: which of its channels the layer still has; None means all.
        addend: what the compressed model adds to the layer's output; then `value` is the sum,
            and the layer makes up for what the other branch lacks (He et al. 2017, sec. 3.3).
    """

    value: ir.Value
    kept: tuple[int, ...] | None
    addend: ir.Value | None = None

    def channels(self, array: NDArray[Any], axis: int) -> NDArray[Any]:
        """The kept channels of a computed target, moved to the last axis."""
        moved = np.moveaxis(array, axis, -1)
        return moved if self.kept is None else moved[..., list(self.kept)]


def match_targets(
    model: ir.Model, layers: list[LinearLayer], reference: ir.Model, originals: list[LinearLayer]
) -> list[FitTarget | str]:
    """For each layer of `model` its target in `reference`, or why it has none.

    A value of the same name is the same tensor, whichever node computes it now (a folded
    BatchNormalization, for example, leaves its output's name to the convolution). A layer
    recorded as renamed, and one whose output has a new name, is found by its node.
    """
    values = {value.name: value for node in reference.graph for value in node.outputs}
    outputs = {node.name: node.outputs[0] for node in reference.graph if node.outputs}
    outputs |= {layer.node.name: layer.output for layer in originals}
    result: list[FitTarget | str] = []
    for layer in layers:
        name = layer.node.name or ""
        origin = origin_of(model, name)
        value = values.get(layer.output.name) if origin.node == name else None
        value = value or outputs.get(origin.node) or values.get(layer.output.name)
        if value is None:
            result.append(
                f"the reference has no value {layer.output.name!r} and no node {origin.node!r}"
            )
            continue
        target = FitTarget(value, origin.kept)
        result.append(_mismatch(layer, target) or target)
    return result


def sum_target(
    layer: LinearLayer, target: FitTarget, sums: Mapping[str | None, ir.Value], later: Set[ir.Node]
) -> FitTarget:
    """The target of a layer whose output alone goes into a sum: the sum, less its other side.

    Args:
        layer: of the compressed model.
        target: its own output in the reference.
        sums: of the reference, by name. Where a branch has ended, the sum before it has the
            name of the one after it, and stands in its place.
        later: layers that are not repaired yet when this one is. A side that depends on one
            of them will be repaired towards the sum itself.
    """
    add = sole_consumer(layer.output)
    original = sums.get(add.outputs[0].name) if add is not None and is_op(add, "Add") else None
    if add is None or original is None or original.shape != target.value.shape:
        return target
    other = add.inputs[1] if add.inputs[0] is layer.output else add.inputs[0]
    known = other is not None and other.shape is not None and const_tensor(other) is None
    if not known or other is None or other.shape != layer.output.shape or _needs(other, later):
        return target
    return FitTarget(original, target.kept, other)


def clip_behind(layer: LinearLayer, target: FitTarget) -> Clip:
    """What the activation lets through that alone reads a layer's output, or its sum."""
    value = layer.output
    if target.addend is not None:
        add = sole_consumer(value)
        assert add is not None
        value = add.outputs[0]
    reader = sole_consumer(value)
    if reader is not None and is_op(reader, "QuantizeLinear"):
        return _represented(reader)
    output_range = None if reader is None else spec_of(reader).output_range
    bounds = output_range(reader) if reader is not None and output_range is not None else None
    return bounds or NO_CLIP


def _represented(quantize: ir.Node) -> Clip:
    """The smallest and largest number that a QuantizeLinear with one scale can hold."""
    scale = const_array(quantize.inputs[1])
    zero = const_array(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return NO_CLIP
    limits = np.iinfo(zero.dtype)
    low, high = (float(scale) * (limit - int(zero)) for limit in (limits.min, limits.max))
    return low, high


def _needs(value: ir.Value, nodes: Set[ir.Node]) -> bool:
    """Whether any of `nodes` is needed to compute a value."""
    seen: set[ir.Node] = set()
    queue = [value]
    while queue:
        producer = queue.pop().producer()
        if producer is not None and producer not in seen:
            seen.add(producer)
            queue += [read for read in producer.inputs if read is not None]
    return not seen.isdisjoint(nodes)


def _mismatch(layer: LinearLayer, target: FitTarget) -> str | None:
    have, wanted = layer.output.shape, target.value.shape
    if have is None or wanted is None:
        return None
    expected: list[object] = list(wanted)
    axis = layer.geometry.channel_axis
    if target.kept is not None and -len(expected) <= axis < len(expected):
        channels = expected[axis]
        beyond = isinstance(channels, int) and max(target.kept, default=0) >= channels
        expected[axis] = "too few" if beyond else len(target.kept)
    pairs = zip(have, expected, strict=False)
    differs = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    if len(have) != len(expected) or differs or "too few" in expected:
        kept = "all" if target.kept is None else str(len(target.kept))
        return (
            f"its output is {have} and {target.value.name!r} of the reference {wanted}, of which "
            f"{kept} channels are kept by the lineage"
        )
    return None
