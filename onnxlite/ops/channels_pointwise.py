"""Channel rules of operators that work position by position, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.ops.tracker import (
    ChannelRule,
    Ids,
    Tracker,
    aligned,
    blank,
    line_of,
    spread,
    tie_along,
    tracked_axes,
)

#: Zeros in a constant operand of these silence a unit; elsewhere they could divide by zero.
_ZERO_SAFE = frozenset({"Add", "Sub", "Mul", "Sum", "PRelu", "Gemm"})


def elementwise(node: ir.Node, t: Tracker) -> None:
    """Units at the same position of the operands are one; constants lose their slices."""
    out = node.outputs[0]
    rank = len(t.shape(out))
    ids = combine(node, t, blank(rank), (1,) * rank, range(len(node.inputs)))
    for value in node.outputs:
        t.put(value, ids)


def combine(
    node: ir.Node, t: Tracker, ids: Ids, shape: tuple[int, ...], ports: Iterable[int]
) -> Ids:
    """The ids of a broadcast result: `ids` (of real `shape`) with the operands at `ports`.

    An operand of size 1 along a tracked axis does not couple. A computed one that is
    full there but has no units makes them stay; a constant one is bound.
    """
    present = [(port, v) for port in ports if (v := _input(node, port)) is not None]
    full = np.array(shape) > 1
    for _, value in present:
        if not t.is_constant(value):
            other = aligned(t.ids(value), ids.ndim)
            other_full = _full(t, value, ids.ndim)
            ids = _meet(t, ids, full, other, other_full, value.name or "?")
            full = full | other_full
    for port, value in present:
        if t.is_constant(value):
            ids = _bind(node, t, ids, port, value)
    return ids


def _input(node: ir.Node, port: int) -> ir.Value | None:
    return node.inputs[port] if port < len(node.inputs) else None


def _full(t: Tracker, value: ir.Value, rank: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    shape = t.shape(value)
    return np.array((1,) * (rank - len(shape)) + shape) > 1


def _meet(
    t: Tracker,
    a: Ids,
    a_full: np.ndarray[tuple[int], np.dtype[np.bool_]],
    b: Ids,
    b_full: np.ndarray[tuple[int], np.dtype[np.bool_]],
    name: str,
) -> Ids:
    common = set(tracked_axes(a)) & set(tracked_axes(b))
    if common:
        t.tie(a, b)
        shape = np.broadcast_shapes(a.shape, b.shape)
        return np.where(np.broadcast_to(a, shape) != 0, a, b)
    a = _release(t, a, [x for x in tracked_axes(a) if b_full[x]], name)
    b = _release(t, b, [x for x in tracked_axes(b) if a_full[x]], name)
    if tracked_axes(a) and tracked_axes(b):
        t.pin(b, "it meets units on another axis")
    return a if tracked_axes(a) else b


def _release(t: Tracker, ids: Ids, axes: list[int], name: str) -> Ids:
    """Make units the same along `axes`, where a partner without units is full."""
    if not axes:
        return ids
    if set(axes) >= set(tracked_axes(ids)):
        t.pin(ids, f"it meets computed values that have no units ({name!r})")
        return ids
    return tie_along(t, ids, *axes)


def _bind(node: ir.Node, t: Tracker, ids: Ids, port: int, value: ir.Value) -> Ids:
    axes = tracked_axes(ids)
    full = _full(t, value, ids.ndim)
    touched = [axis for axis in axes if full[axis]]
    if not touched:
        return ids
    if len(axes) > 1 and touched == [ids.ndim - 1]:
        # A constant over the features of every head: whole heads stay removable.
        return tie_along(t, ids, *touched)
    axis = touched[0]
    line = line_of(t, ids, axis)
    own_axis = axis - (ids.ndim - len(t.shape(value)))
    t.bind(port, own_axis, line, fill=0.0 if node.op_type in _ZERO_SAFE else None)
    return spread(line, axis, ids.ndim)


def first_input(node: ir.Node, t: Tracker) -> None:
    """The result has the units of the first input; the others are single numbers."""
    data = t.ids(node.inputs[0])  # type: ignore[arg-type]
    for value in node.outputs:
        t.put(value, data)


def quantized(node: ir.Node, t: Tracker) -> None:
    """Scale and zero point per channel are bound like a weight; blocks pin."""
    value = node.inputs[0]
    assert value is not None
    ids = t.ids(value)
    scale = node.inputs[1]
    assert scale is not None
    if len(t.shape(scale)) == 1 and t.shape(scale) != (1,) and tracked_axes(ids):
        axis = attribute(node, "axis", 1) % ids.ndim
        if ids.shape[axis] > 1:
            line = line_of(t, ids, axis)
            t.bind(1, axis=0, line=line, fill=None)
            t.bind(2, axis=0, line=line, fill=None)
            ids = spread(line, axis, ids.ndim)
    elif len(t.shape(scale)) > 1:
        t.pin(ids, "it is quantized in blocks")
    t.put(node.outputs[0], ids)


_ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum"),
    *("And", "Or", "Xor", "Not", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
    *("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Where"),
    *("Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Sqrt", "Exp", "Log", "Erf", "Reciprocal"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
    *("Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Relu", "LeakyRelu", "PRelu"),
    *("ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Softsign", "Shrink"),
    *("IsNaN", "IsInf", "Identity", "Cast"),
)

RULES: Mapping[str, ChannelRule] = {
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    "Clip": first_input,
    "Dropout": first_input,
    "QuantizeLinear": quantized,
    "DequantizeLinear": quantized,
}
