"""Values that decide the lengths of outputs, such as the rounded durations of text to speech."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import const_tensor, subgraphs_of
from onnxlite.ops.spec import OpSpec
from onnxlite.ops.table import spec_of


@dataclass(frozen=True)
class ValueLengths:
    """Sizes in a model's main graph that depend on computed values.

    Attributes:
        rounding: nodes that round a computed value to what a shape is made of, in order.
        others: a size depends on computed values in another way, such as a selection by score.
    """

    rounding: tuple[ir.Node, ...] = ()
    others: bool = False

    def __bool__(self) -> bool:
        return bool(self.rounding) or self.others


@dataclass(frozen=True)
class _Origin:
    """Origin of a value.

    Attributes:
        rounding: nodes through which it depends on computed values.
        open: it depends on computed values that no node has rounded.
    """

    rounding: frozenset[ir.Node] = frozenset()
    open: bool = False


_FIXED, _OPEN = _Origin(), _Origin(open=True)


def value_lengths(model: ir.Model) -> ValueLengths:
    """Find where computed values decide a shape: one pass over the main graph.

    A value is computed if weights, random operators or a body are behind it. Sizes that are
    computed from the shapes and values of inputs alone are the same in every candidate.
    """
    origins: dict[ir.Value, _Origin] = {}
    found: set[ir.Node] = set()
    others = False
    for node in model.graph:
        spec = spec_of(node)
        for port in spec.shape_ports:
            value = node.inputs[port] if port < len(node.inputs) else None
            origin = _FIXED if value is None else origins.get(value, _FIXED)
            found |= origin.rounding
            others = others or origin.open
        origin = _of(node, spec, origins)
        if origin is not _FIXED:
            origins.update((value, origin) for value in node.outputs)
    order = tuple(node for node in model.graph if node in found) if found else ()
    return ValueLengths(order, others)


def _of(node: ir.Node, spec: OpSpec, origins: dict[ir.Value, _Origin]) -> _Origin:
    """Origin of a node's outputs."""
    if _computes(node, spec):
        return _OPEN
    if spec.reads_shape:
        return _FIXED
    parts = [origins[v] for v in node.inputs if v is not None and v in origins]
    if not parts:
        return _FIXED
    opened = any(part.open for part in parts)
    rounding = (
        parts[0].rounding if len(parts) == 1 else frozenset().union(*(p.rounding for p in parts))
    )
    if opened and spec.rounds is not None and spec.rounds(node):
        return _Origin(rounding | {node})
    return _Origin(rounding, opened)


def _computes(node: ir.Node, spec: OpSpec) -> bool:
    if spec.macs is not None or (spec.random is not None and spec.random.draws(node)):
        return True
    weights = (node.inputs[port] for port in spec.weights if port < len(node.inputs))
    tensors = (const_tensor(value) for value in weights)
    if any(tensor is not None and tensor.dtype.is_floating_point() for tensor in tensors):
        return True
    return bool(subgraphs_of(node))
