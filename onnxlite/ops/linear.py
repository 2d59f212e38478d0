"""Operators that multiply by weights: convolutions, matrix products, recurrent cells."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from onnxlite.graph import attribute, rank, static_dim
from onnxlite.ops.geometry import GemmForm
from onnxlite.ops.spec import OpSpec, QuantRule, ShapeOf


def _conv_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return _filter_macs(node, shape_of, port=1)


def _qlinear_conv_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    return _filter_macs(node, shape_of, port=3)


def _filter_macs(node: ir.Node, shape_of: ShapeOf, *, port: int) -> int | None:
    weight, output = shape_of(node.inputs[port]), shape_of(node.outputs[0])
    if weight is None or output is None:
        return None
    return prod(output) * prod(weight[1:])


def _conv_transpose_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    weight, data = shape_of(node.inputs[1]), shape_of(node.inputs[0])
    if weight is None or data is None:
        return None
    return prod(data) * prod(weight[1:])


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


def _recurrent_macs(node: ir.Node, shape_of: ShapeOf) -> int | None:
    """Sequence length x batch x (input and recurrent weights), X is [seq, batch, input]."""
    data = shape_of(node.inputs[0])
    weights = [shape_of(node.inputs[1]), shape_of(node.inputs[2])]
    if data is None or any(w is None for w in weights):
        return None
    return data[0] * data[1] * sum(prod(w) for w in weights if w is not None)


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


def _first_axis(_node: ir.Node) -> int:
    return 0


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


def _conv_reduction(node: ir.Node) -> tuple[int, ...]:
    """Kernel positions, then input channels: ONNX Runtime's integer kernels work on NHWC."""
    if attribute(node, "group", 1) > 1 and static_dim(node.inputs[1], 1) == 1:
        return ()
    return (*range(2, rank(node.inputs[1]) or 2), 1)


def _matmul_reduction(node: ir.Node) -> tuple[int, ...]:
    return ((rank(node.inputs[1]) or 2) - 2,)


_CONV = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_first_axis,
    reduction_axes=_conv_reduction,
    bias=2,
)
_GEMM = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_gemm_axis,
    reduction_axes=_gemm_reduction,
    bias=2,
    float_output=True,
    refuses=_gemm_refusal,
)
_MATMUL = QuantRule(
    kind="compute",
    weight=1,
    channel_axis=_matmul_axis,
    reduction_axes=_matmul_reduction,
    float_output=True,
)


def _conv_output(_node: ir.Node, _port: int) -> int:
    return 0


def _conv_transpose_output(_node: ir.Node, _port: int) -> int:
    return 1


def _gemm_output(node: ir.Node, _port: int) -> int:
    return _gemm_axis(node)


def _matmul_output(node: ir.Node, port: int) -> int | None:
    """Columns of a matrix on the right, rows of one on the left."""
    weight_rank = rank(node.inputs[port]) or 2
    return weight_rank - 1 if port == 1 else weight_rank - 2


def _conv_channels(node: ir.Node) -> tuple[int, int] | None:
    size = static_dim(node.inputs[1], 1)
    return None if size is None else (1, size * int(attribute(node, "group", 1)))


def _conv_transpose_channels(node: ir.Node) -> tuple[int, int] | None:
    size = static_dim(node.inputs[1], 0)
    return None if size is None else (1, size)


def _gemm_channels(node: ir.Node) -> tuple[int, int] | None:
    form = GemmForm.of(node)
    size = static_dim(node.inputs[1], 1 - form.output_axis)
    return None if size is None else (0 if form.data_transposed else 1, size)


def _conv_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    return tuple(range(1, rank(node.inputs[port]) or 2))


def _conv_transpose_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    return (0, *range(2, rank(node.inputs[port]) or 2))


def _gemm_summed(node: ir.Node, _port: int) -> tuple[int, ...]:
    return (1 - _gemm_axis(node),)


def _matmul_summed(node: ir.Node, port: int) -> tuple[int, ...]:
    weight_rank = rank(node.inputs[port]) or 2
    return (weight_rank - 2,) if port == 1 else (weight_rank - 1,)


def _recurrent_summed(_node: ir.Node, _port: int) -> tuple[int, ...]:
    """Weights are [directions, gates x hidden, input]."""
    return (2,)


LINEAR = (
    OpSpec(
        op_type="Conv",
        quant=_CONV,
        macs=_conv_macs,
        weights=(1,),
        output_axis=_conv_output,
        data_channels=_conv_channels,
        summed_axes=_conv_summed,
    ),
    OpSpec(
        op_type="ConvTranspose",
        macs=_conv_transpose_macs,
        weights=(1,),
        output_axis=_conv_transpose_output,
        data_channels=_conv_transpose_channels,
        summed_axes=_conv_transpose_summed,
    ),
    OpSpec(
        op_type="Gemm",
        quant=_GEMM,
        macs=_gemm_macs,
        weights=(1,),
        output_axis=_gemm_output,
        data_channels=_gemm_channels,
        summed_axes=_gemm_summed,
    ),
    OpSpec(
        op_type="MatMul",
        quant=_MATMUL,
        macs=_matmul_macs,
        weights=(0, 1),
        output_axis=_matmul_output,
        summed_axes=_matmul_summed,
    ),
    OpSpec(op_type="Einsum", macs=_einsum_macs, weights=(0, 1)),
    OpSpec(op_type="LSTM", macs=_recurrent_macs, weights=(1, 2), summed_axes=_recurrent_summed),
    OpSpec(op_type="GRU", macs=_recurrent_macs, weights=(1, 2), summed_axes=_recurrent_summed),
    OpSpec(op_type="RNN", macs=_recurrent_macs, weights=(1, 2), summed_axes=_recurrent_summed),
    # What a quantized model is made of: counted, never pruned or quantized again.
    OpSpec(op_type="ConvInteger", macs=_conv_macs, weights=(1,)),
    OpSpec(op_type="MatMulInteger", macs=_matmul_macs, weights=(1,)),
    OpSpec(op_type="QLinearConv", macs=_qlinear_conv_macs, weights=(3,)),
    OpSpec(op_type="QLinearMatMul", macs=_matmul_macs, weights=(3,)),
)
