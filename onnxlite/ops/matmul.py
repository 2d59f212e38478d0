"""Matrix products: MatMul, Gemm, Einsum.

Their channel rules are one product over named indices: `MatMul` of [b, m, k] and [b, k, n] is
`bmk,bkn->bmn`, where `k` is contracted, `b` is shared, and `m` and `n` are free. A contraction
consumes the units along its axis.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from onnxlite.graph import attribute, rank, static_dim
from onnxlite.ops.geometry import GemmForm, gemm_geometry, matmul_geometry
from onnxlite.ops.pointwise import combine
from onnxlite.ops.spec import (
    CONTRIB_DOMAIN,
    IntegerForm,
    OpSpec,
    Quantized,
    QuantRule,
    RowUse,
    ShapeOf,
    integer_operands,
)
from onnxlite.ops.tracker import Ids, Tracker, blank, line_of, spread, tracked_axes


def _gemm_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    left, output = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if left is None or output is None or len(left) != 2:
        return None
    return prod(output) * left[0 if GemmForm.of(node).data_transposed else 1]


def _matmul_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    left, output = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if not left or output is None:
        return None
    return prod(output) * left[-1]


def _block_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """As of a product with a weight of K rows, which is stored in blocks."""
    output = shape_of(node.outputs[0])
    return None if output is None else prod(output) * attribute(node, "K", 0)


def _einsum_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """The product of all index sizes; None for ellipses, whose indices have no letter."""
    terms = attribute(node, "equation", "").replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=False):
        shape = shape_of(value)
        if shape is None or len(shape) != len(term):
            return None
        sizes.update(zip(term, shape, strict=True))
    return prod(sizes.values()) if len(terms) > 1 else 0


def _gemm_axis(node: ir.Node) -> int:
    return GemmForm.of(node).output_axis


def _matmul_axis(node: ir.Node) -> int | None:
    weight_rank = rank(node.inputs[1])
    return 1 if weight_rank == 2 else None


def _gemm_refusal(node: ir.Node) -> str | None:
    form = GemmForm.of(node)
    if form.data_transposed:
        return "it transposes its data (transA)"
    return None if form.plain else "alpha or beta is not 1"


def _gemm_reduction(node: ir.Node) -> tuple[int, ...]:
    return (1 - _gemm_axis(node),)


def _matmul_reduction(node: ir.Node) -> tuple[int, ...]:
    return ((rank(node.inputs[1]) or 2) - 2,)


def _gemm_output(node: ir.Node, _port: int) -> int:
    return _gemm_axis(node)


def _matmul_output(node: ir.Node, port: int) -> int | None:
    """Columns of a matrix on the right, rows of one on the left."""
    weight_rank = rank(node.inputs[port]) or 2
    return weight_rank - 1 if port == 1 else weight_rank - 2


def _gemm_channels(node: ir.Node) -> tuple[int, int] | None:
    form = GemmForm.of(node)
    size = static_dim(node.inputs[1], 1 - form.output_axis)
    return None if size is None else (0 if form.data_transposed else 1, size)


def _gemm_summed(node: ir.Node, _port: int) -> tuple[int, ...]:
    return (1 - _gemm_axis(node),)


def _matmul_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    weight_rank = rank(node.inputs[port]) or 2
    return (weight_rank - 2,) if port == 1 else (weight_rank - 1,)


def _matmul_rows(node: ir.Node, port: int) -> RowUse | None:
    data = rank(node.inputs[0])
    if port != 1 or (data is not None and data < 2):
        return None
    return RowUse("product", 1, products=(node,))


def _gemm_rows(node: ir.Node, port: int) -> RowUse | None:
    form = GemmForm.of(node)
    if port != 1 or not form.plain:
        return None
    added = len(node.inputs) > 2 and node.inputs[2] is not None
    return RowUse("product", form.output_axis, addend=2 if added else None, products=(node,))


def _qgemm(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    bias = inputs[2].integers if len(inputs) > 2 else None
    return [*inputs[0].three, *inputs[1].three, bias, *output.parameters]


def _qgemm_to_float(inputs: Sequence[Quantized], _output: Quantized) -> list[ir.Value | None]:
    bias = [operand.integers for operand in inputs[2:]]
    return [*inputs[0].three, *inputs[1].three, *bias]


def _matmul_to_float(inputs: Sequence[Quantized], _output: Quantized) -> list[ir.Value | None]:
    a, b = inputs
    return [a.integers, b.integers, a.scale, b.scale, a.zero_point, b.zero_point]


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
    t.put(node.outputs[0], combine(node, t, ids, t.shape(node.outputs[0]), (2,), fill=0.0))


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


_GEMM_ATTRIBUTES = frozenset({"alpha", "transA", "transB"})
_GEMM = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_gemm_axis,
    reduction_axes=_gemm_reduction,
    bias=2,
    float_output=True,
    refuses=_gemm_refusal,
    integer_form=IntegerForm(
        op_type="QGemm", domain=CONTRIB_DOMAIN, arrange=_qgemm, attributes=_GEMM_ATTRIBUTES
    ),
    float_form=IntegerForm(
        op_type="QGemm", domain=CONTRIB_DOMAIN, arrange=_qgemm_to_float, attributes=_GEMM_ATTRIBUTES
    ),
)
_MATMUL = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_matmul_axis,
    reduction_axes=_matmul_reduction,
    float_output=True,
    integer_form=IntegerForm(op_type="QLinearMatMul", domain="", arrange=integer_operands),
    float_form=IntegerForm(
        op_type="MatMulIntegerToFloat", domain=CONTRIB_DOMAIN, arrange=_matmul_to_float
    ),
)

ROWS = (
    OpSpec(
        op_type="Gemm",
        quant=_GEMM,
        macs=_gemm_macs,
        weights=(1,),
        output_axis=_gemm_output,
        data_channels=_gemm_channels,
        summed_axes=_gemm_summed,
        geometry=gemm_geometry,
        channel_axis=-1,
        rows=_gemm_rows,
        dynamic_kernels=("integer", "blocks"),
        channels=gemm,
    ),
    OpSpec(
        op_type="MatMul",
        quant=_MATMUL,
        macs=_matmul_macs,
        weights=(0, 1),
        output_axis=_matmul_output,
        summed_axes=_matmul_summed,
        geometry=matmul_geometry,
        channel_axis=-1,
        rows=_matmul_rows,
        dynamic_kernels=("integer", "blocks"),
        channels=matmul,
    ),
    OpSpec(op_type="Einsum", macs=_einsum_macs, weights=(0, 1), channels=einsum),
    # Of quantized models: counted, never pruned or quantized again.
    OpSpec(op_type="MatMulInteger", macs=_matmul_macs, weights=(1,), quantized=True),
    OpSpec(op_type="QLinearMatMul", macs=_matmul_macs, weights=(3,), quantized=True),
    OpSpec(
        op_type="MatMulNBits",
        domain=CONTRIB_DOMAIN,
        macs=_block_macs,
        weights=(1,),
        quantized=True,
    ),
)
