"""Channel rules of matrix products, all written as one product over named indices.

`MatMul` of [b, m, k] and [b, k, n] is `bmk,bkn->bmn`: `k` is contracted, `b` is shared,
`m` and `n` are free. A contraction consumes the units along its axis.
"""

from __future__ import annotations

import string
from collections.abc import Mapping

import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.ops.channels_pointwise import combine
from onnxlite.ops.geometry import GemmForm
from onnxlite.ops.tracker import (
    ChannelRule,
    Ids,
    Tracker,
    blank,
    line_of,
    spread,
    tracked_axes,
)


def matmul(node: ir.Node, t: Tracker) -> None:
    """`MatMul` with NumPy's broadcasting of the axes in front."""
    left, right = (len(t.shape(value)) for value in node.inputs if value is not None)
    batch = string.ascii_lowercase[: max(left, right, 2) - 2]
    a = "K" if left == 1 else batch[len(batch) - left + 2 :] + "MK"
    b = "K" if right == 1 else batch[len(batch) - right + 2 :] + "KN"
    out = batch + ("M" if left > 1 else "") + ("N" if right > 1 else "")
    t.put(node.outputs[0], _product(node, t, a, b, out))


def gemm(node: ir.Node, t: Tracker) -> None:
    """`Gemm`: a product, then an addition that broadcasts."""
    form = GemmForm.of(node)
    a = "KM" if form.data_transposed else "MK"
    b = "NK" if form.weight_transposed else "KN"
    ids = _product(node, t, a, b, "MN")
    t.put(node.outputs[0], combine(node, t, ids, t.shape(node.outputs[0]), (2,)))


def einsum(node: ir.Node, t: Tracker) -> None:
    """`Einsum` of two operands without repeated indices or an ellipsis."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    simple = arrow and len(terms) == 2 and "." not in equation
    if not simple or any(len(set(term)) < len(term) for term in terms):
        for value in node.inputs:
            if value is not None:
                t.pin(t.ids(value), f"the equation {equation!r} is not a product of two")
        return
    t.put(node.outputs[0], _product(node, t, terms[0], terms[1], out))


def _product(node: ir.Node, t: Tracker, a: str, b: str, out: str) -> Ids:
    """Ids of the result of `a,b->out` on the node's first two inputs."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    if t.is_constant(right):
        return _with_constant(t, left, a, right, b, out, port=1)
    if t.is_constant(left):
        return _with_constant(t, right, b, left, a, out, port=0)
    return _of_computed(t, left, a, right, b, out)


def _with_constant(
    t: Tracker, data: ir.Value, a: str, weight: ir.Value, b: str, out: str, *, port: int
) -> Ids:
    ids, shape = t.ids(data), dict(zip(b, t.shape(weight), strict=True))
    tracked = [a[axis] for axis in tracked_axes(ids)]
    result = blank(len(out))
    if tracked:
        # An index that the result keeps (a head) before one that the product consumes.
        letter = next((x for x in tracked if x in out), tracked[0])
        line = line_of(t, ids, a.index(letter))
        if shape.get(letter, 1) > 1:
            t.bind(port, b.index(letter), line)
        elif letter not in out:
            t.pin(line, "it is summed over")
        if letter in out:
            return spread(line, out.index(letter), len(out))
    free = [x for x in b if x in out and x not in a and shape[x] > 1]
    if free:
        made = t.mint(shape[free[0]])
        t.bind(port, b.index(free[0]), made)
        result = spread(made, out.index(free[0]), len(out))
    return result


def _of_computed(t: Tracker, left: ir.Value, a: str, right: ir.Value, b: str, out: str) -> Ids:
    """Both sides are computed: shared and contracted indices must have units on both sides."""
    shared = [x for x in a if x in b]
    batch = [x for x in shared if x in out]
    order = [*batch, *(x for x in shared if x not in out), *dict.fromkeys(a + b)]
    sides = [(left, a, *_one_index(t, left, a, order)), (right, b, *_one_index(t, right, b, order))]
    result = blank(len(out))
    for (value, _, letter, line), (other, terms, other_letter, other_line) in (
        sides,
        sides[::-1],
    ):
        if letter is None:
            continue
        if letter == other_letter:
            t.tie(line, other_line)
        elif letter in terms and t.shape(other)[terms.index(letter)] > 1:
            t.pin(line, f"it is multiplied with values that have no units ({other.name!r})")
        elif letter not in out:
            t.pin(line, "it is summed over")
        if letter in out:
            if len(tracked_axes(result)) and letter != other_letter:
                t.pin(line, f"the product of two tracked values has two axes ({value.name!r})")
            else:
                result = spread(line, out.index(letter), len(out))
    return result


def _one_index(t: Tracker, value: ir.Value, terms: str, order: list[str]) -> tuple[str | None, Ids]:
    """The index along which a value keeps its units, the first of `order`, and their line."""
    ids = t.ids(value)
    tracked = {terms[axis] for axis in tracked_axes(ids)}
    for letter in order:
        if letter in tracked:
            return letter, line_of(t, ids, terms.index(letter))
    return None, blank(1)


RULES: Mapping[str, ChannelRule] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}
