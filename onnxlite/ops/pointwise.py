"""Operators that work position by position, with broadcasting, and the activations."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, scalar
from onnxlite.ops.spec import OpSpec, QuantRule, contrib_form
from onnxlite.ops.tracker import (
    Ids,
    Tracker,
    aligned,
    blank,
    line_of,
    spread,
    tie_along,
    tracked_axes,
)


def _relu_range(_node: ir.Node) -> tuple[float, float]:
    return 0.0, math.inf


def _clip_range(node: ir.Node) -> tuple[float, float] | None:
    """Bounds from inputs (opset 11) or attributes (before); None if they are computed."""
    low, high = attribute(node, "min", -math.inf), attribute(node, "max", math.inf)
    for port in (1, 2):
        value = node.inputs[port] if port < len(node.inputs) else None
        if value is None:
            continue
        bound = scalar(value)
        if bound is None:
            return None
        low, high = (float(bound), high) if port == 1 else (low, float(bound))
    return float(low), float(high)


def elementwise(node: ir.Node, t: Tracker) -> None:
    """Units at the same position of the operands are one; constants lose their slices."""
    _elementwise(node, t, fill=None)


def zero_safe(node: ir.Node, t: Tracker) -> None:
    """As `elementwise`, where zeros in a constant silence a unit and never divide."""
    _elementwise(node, t, fill=0.0)


def _elementwise(node: ir.Node, t: Tracker, *, fill: float | None) -> None:
    out = node.outputs[0]
    rank = len(t.shape(out))
    ids = combine(node, t, blank(rank), (1,) * rank, range(len(node.inputs)), fill=fill)
    for value in node.outputs:
        t.put(value, ids)


def combine(
    node: ir.Node,
    t: Tracker,
    ids: Ids,
    shape: tuple[int, ...],
    ports: Iterable[int],
    *,
    fill: float | None,
) -> Ids:
    """The ids of a broadcast result: `ids` (of real `shape`) with the operands at `ports`.

    An operand of size 1 along a tracked axis does not couple. A computed one that is
    full there but has no units makes them stay; a constant one is bound, see `Tracker.bind`.
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
            ids = _bind(t, ids, port, value, fill)
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


def _bind(t: Tracker, ids: Ids, port: int, value: ir.Value, fill: float | None) -> Ids:
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
    t.bind(port, own_axis, line, fill=fill)
    return spread(line, axis, ids.ndim)


def first_input(node: ir.Node, t: Tracker) -> None:
    """The result has the units of the first input; the others are single numbers."""
    data = t.ids(node.inputs[0])  # type: ignore[arg-type]
    for value in node.outputs:
        t.put(value, data)


def _binary(integer_form: str) -> QuantRule:
    return QuantRule(kind="integer", inputs=(0, 1), integer_form=contrib_form(integer_form))


_SIGMOID = QuantRule(
    kind="integer", fixed_range=(0.0, 1.0), integer_form=contrib_form("QLinearSigmoid")
)
_LEAKY_RELU = QuantRule(kind="integer", integer_form=contrib_form("QLinearLeakyRelu"))

#: Operators of which only the channel rule is known.
_ELEMENTWISE = (
    *("Pow", "Mod", "Min", "Max", "Mean"),
    *("And", "Or", "Xor", "Not", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
    *("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Where"),
    *("Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Sqrt", "Log", "Erf", "Reciprocal"),
    *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
    *("Tanh", "HardSigmoid", "HardSwish", "Swish", "Mish"),
    *("ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Softsign", "Shrink"),
    *("IsNaN", "IsInf"),
)

#: Those that make integers or truth values of real numbers.
_ROUNDING = frozenset(
    {"Ceil", "Floor", "Round", "Sign"}
    | {"Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"}
)


def _casts_to_integers(node: ir.Node) -> bool:
    to = ir.DataType(attribute(node, "to", int(ir.DataType.FLOAT)))
    return to.is_integer() or to == ir.DataType.BOOL


ROWS = (
    OpSpec(op_type="Relu", output_range=_relu_range, linear=True, channels=elementwise),
    OpSpec(op_type="Clip", output_range=_clip_range, channels=first_input),
    OpSpec(
        op_type="Add",
        quant=_binary("QLinearAdd"),
        sums=True,
        shifts=(0, 1),
        scores="keeps",
        channels=zero_safe,
    ),
    OpSpec(op_type="Sum", sums=True, channels=zero_safe),
    OpSpec(op_type="Sub", scores="keeps", channels=zero_safe),
    OpSpec(op_type="Mul", quant=_binary("QLinearMul"), channels=zero_safe),
    OpSpec(op_type="Div", scores="keeps", channels=elementwise),
    OpSpec(op_type="Exp", scores="keeps", channels=elementwise),
    OpSpec(op_type="LeakyRelu", quant=_LEAKY_RELU, linear=True, channels=elementwise),
    OpSpec(op_type="PRelu", weights=(1,), linear=True, channels=zero_safe),
    OpSpec(op_type="Sigmoid", quant=_SIGMOID, channels=elementwise),
    OpSpec(op_type="Identity", linear=True, moves_only=True, scores="keeps", channels=elementwise),
    OpSpec(op_type="Cast", moves_only=True, channels=elementwise, rounds=_casts_to_integers),
    *(
        OpSpec(
            op_type=name,
            channels=elementwise,
            rounds=(lambda _node: True) if name in _ROUNDING else None,
        )
        for name in _ELEMENTWISE
    ),
)
