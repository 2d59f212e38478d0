"""Folding of per-channel constants into convolutions and matrix products.

With a linear layer `y = W x + b`, an affine map behind it gives `(sW) x + (sb + t)`, and
one before it `(W s) x + (b + W t)`. The second needs that padding adds nothing: a padded
zero would have become `t`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_tensor, constant, rank
from onnxlite.model import unmapped
from onnxlite.ops import GemmForm
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Refused,
    const_operand,
    owned_by,
    replace_with,
    rule,
    small_const,
)
from onnxlite.simplify.rules.activations import ends_gelu
from onnxlite.simplify.rules.affine import AFFINE_OPS, Affine, affine_of

Array: TypeAlias = NDArray[Any]

#: Folding computes in float64, so a weight needs about four times its size in memory.
_MAX_WEIGHT_BYTES = 64 << 20
_LINEAR_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """A layer with constant weights, seen as rows (inputs) and columns (outputs).

    `tensor` is the stored weight; `dims` is the rank of input and output.
    """

    node: ir.Node
    tensor: ir.TensorProtocol
    bias: Array | None
    outputs: int
    inputs: int
    dims: int

    @property
    def form(self) -> GemmForm:
        """Factors and transpositions; those of a Gemm without attributes for other operators."""
        return GemmForm.of(self.node)

    @property
    def weight(self) -> Array:
        """The stored weight, read anew: nothing keeps a large one in memory."""
        return unmapped(self.tensor).numpy()

    @property
    def axis(self) -> int:
        """The channel axis of input and output, counted from the front."""
        return 1 if self.node.op_type in ("Conv", "ConvTranspose") else self.dims - 1


def linear_of(node: ir.Node) -> Linear | None:
    """Read a layer; None if its weight or bias is computed or its rank is unknown."""
    weight_value = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = const_tensor(weight_value)
    if tensor is None or weight_value is None or not tensor.dtype.is_floating_point():
        return None
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = small_const(bias_value)
    if bias_value is not None and bias is None:
        return None
    shape = tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
    group = int(attribute(node, "group", 1))
    match node.op_type:
        case "Conv":
            outputs, inputs, dims = shape[0], shape[1] * group, len(shape)
        case "ConvTranspose":
            outputs, inputs, dims = shape[1] * group, shape[0], len(shape)
        case "Gemm":
            inputs, outputs = shape[::-1] if GemmForm.of(node).weight_transposed else shape
            dims = 2
            if bias is not None and bias.size != 1 and bias.shape not in ((outputs,), (1, outputs)):
                return None
        case _:
            if len(shape) != 2 or (dims := rank(node.inputs[0]) or 0) < 2:
                return None
            inputs, outputs = shape
    return Linear(node, tensor, bias, outputs, inputs, dims)


def obstacle(layer: Linear, affine: Affine) -> Refused | None:
    """Return why the layer may not take up the affine map, or None."""
    weight = layer.node.inputs[1]
    assert weight is not None
    if len(list(weight.uses())) > 1:
        return Refused("its weight is shared with another node")
    if layer.tensor.nbytes > _MAX_WEIGHT_BYTES:
        mebibytes = layer.tensor.nbytes >> 20
        return Refused(f"its weight holds {mebibytes} MiB, too much to compute with in memory")
    return None if affine.finite else Refused("a folded coefficient is not finite")


def scaled_columns(layer: Linear, scale: Array) -> Array:
    """The weight with output channel j multiplied by `scale[j]`."""
    weight: Array = layer.weight.astype(np.float64)
    if scale.ndim == 0:
        return np.asarray(weight * scale)
    match layer.node.op_type:
        case "Conv":
            return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        case "ConvTranspose":
            group = int(attribute(layer.node, "group", 1))
            grouped = weight.reshape(group, -1, *weight.shape[1:])
            tail = [1] * (weight.ndim - 2)
            return (grouped * scale.reshape(group, 1, -1, *tail)).reshape(weight.shape)
        case _:
            return weight * (scale[:, None] if layer.form.weight_transposed else scale)


def _grouped_rows(layer: Linear, vector: Array) -> Array:
    """The weight with input channel i multiplied by `vector[i]` (not for ConvTranspose)."""
    weight: Array = layer.weight.astype(np.float64)
    if vector.ndim == 0:
        return weight * vector
    if layer.node.op_type == "Conv":
        group = int(attribute(layer.node, "group", 1))
        grouped = weight.reshape(group, -1, *weight.shape[1:])
        tail = [1] * (weight.ndim - 2)
        return (grouped * vector.reshape(group, 1, -1, *tail)).reshape(weight.shape)
    return weight * (vector if layer.form.weight_transposed else vector[:, None])


def _output_sums(layer: Linear, weight: Array) -> Array:
    """Sum of a weight over everything but the output channels: float64[outputs]."""
    if layer.node.op_type == "Conv" or layer.form.weight_transposed:
        return np.asarray(weight.reshape(weight.shape[0], -1).sum(1))
    return np.asarray(weight.sum(0))


def rebuilt(
    layer: Linear, data: ir.Value | None, weight: Callable[[], Array], bias: Array | None
) -> ir.Node:
    """The layer with a new weight and a new bias, float64[outputs] or None."""
    node, dtype = layer.node, layer.tensor.dtype.numpy()
    inputs = [data, _folded(layer, weight)]
    attributes = dict(node.attributes)
    if bias is not None:
        bias = np.broadcast_to(bias, (layer.outputs,))
        inputs.append(constant(bias.astype(dtype), f"{node.name}_bias"))
        if node.op_type == "Gemm":
            attributes.pop("beta", None)
    op_type = "Gemm" if node.op_type == "MatMul" and bias is not None else node.op_type
    result = ir.Node("", op_type, inputs, attributes.values())
    result.metadata_props.update(node.metadata_props)
    return result


def _folded(layer: Linear, weight: Callable[[], Array]) -> ir.Value:
    """The new weight as a constant; one mapped from disk is computed whenever it is needed.

    So a model larger than memory can be folded: only one weight exists at a time.
    """
    old, name = layer.tensor, f"{layer.node.name}_weight"
    if not isinstance(old, ir.ExternalTensor | ir.LazyTensor):
        return constant(weight().astype(old.dtype.numpy()), name)

    def build() -> ir.TensorProtocol:
        return ir.Tensor(weight().astype(old.dtype.numpy()), dtype=old.dtype, name=name)

    shape = ir.Shape(old.shape.numpy())
    tensor = ir.LazyTensor(build, old.dtype, shape, name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(old.dtype), const_value=tensor)


def _bias_of(layer: Linear) -> Array:
    if layer.bias is None:
        return np.zeros(layer.outputs)
    beta = layer.form.beta
    return beta * layer.bias.astype(np.float64).reshape(-1)


def _fold_forward(node: ir.Node) -> Outcome:
    if node.op_type != "BatchNormalization" and const_operand(node) is None:
        return None
    producers = [owned_by(value, *_LINEAR_OPS, like=node) for value in node.inputs]
    found = next((producer for producer in producers if producer is not None), None)
    layer = linear_of(found) if found is not None else None
    if layer is None or found is None:
        return None
    affine = affine_of(node, dims=layer.dims, axis=layer.axis)
    if affine is None or {affine.scale.size, affine.shift.size} - {1, layer.outputs}:
        return None
    if (refused := obstacle(layer, affine)) is not None:
        return refused
    if found.op_type == "MatMul" and affine.shift.any() and layer.dims != 2:
        return None
    weight = partial(scaled_columns, layer, affine.scale)
    has_bias = layer.bias is not None or bool(affine.shift.any())
    bias = _bias_of(layer) * affine.scale + affine.shift if has_bias else None
    return replace_with(node, rebuilt(layer, found.inputs[0], weight, bias))


def _fold_backward(node: ir.Node, *ops: str) -> Outcome:
    before = owned_by(node.inputs[0], *ops, like=node)
    layer = linear_of(node) if before is not None else None
    if before is None or layer is None:
        return None
    if ends_gelu(before):
        return Refused("the factor is part of a Gelu, which ONNX Runtime fuses")
    affine = affine_of(before, dims=layer.dims, axis=layer.axis)
    if affine is None or {affine.scale.size, affine.shift.size} - {1, layer.inputs}:
        return None
    if (refused := obstacle(layer, affine)) is not None:
        return refused
    if GemmForm.of(node).data_transposed:
        return None
    if affine.shift.any():
        if node.op_type == "Conv" and _pads(node):
            return Refused("the convolution pads with zeros, which the shift would move")
        if node.op_type == "MatMul" and layer.dims != 2:
            return None
    alpha = GemmForm.of(node).alpha
    weight = partial(_grouped_rows, layer, affine.scale)
    bias = _bias_of(layer) if layer.bias is not None else None
    if affine.shift.any():
        moved = alpha * _output_sums(layer, _grouped_rows(layer, affine.shift))
        bias = moved if bias is None else bias + moved
    return replace_with(node, rebuilt(layer, affine.data, weight, bias))


def _pads(node: ir.Node) -> bool:
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return True
    return any(attribute(node, "pads", []))


@rule("fold-batchnorm", "BatchNormalization")
def fold_batchnorm(node: ir.Node, _context: Context) -> Outcome:
    """Conv/ConvTranspose/Gemm/MatMul -> BatchNormalization: the layer alone.

    Declines for shared weights, training mode, and coefficients that are not finite.
    """
    return _fold_forward(node)


@rule("fold-constant", "Mul", "Div", "Add", "Sub")
def fold_constant(node: ir.Node, _context: Context) -> Outcome:
    """Conv/ConvTranspose/Gemm/MatMul -> Mul/Div/Add/Sub by a per-channel constant: the layer.

    MatMul of rank 2 with a shift becomes Gemm. Declines as `fold_batchnorm` does.
    """
    return _fold_forward(node)


@rule("fold-batchnorm-backward", "Conv", "Gemm", "MatMul")
def fold_batchnorm_backward(node: ir.Node, _context: Context) -> Outcome:
    """BatchNormalization -> Conv/Gemm/MatMul: the layer alone.

    Declines when the convolution pads and the normalisation shifts.
    """
    return _fold_backward(node, "BatchNormalization")


@rule("fold-constant-backward", "Conv", "Gemm", "MatMul")
def fold_constant_backward(node: ir.Node, _context: Context) -> Outcome:
    """Mul/Div/Add/Sub by a per-channel constant -> Conv/Gemm/MatMul: the layer alone.

    Declines when the convolution pads and the constant shifts.
    """
    return _fold_backward(node, *AFFINE_OPS[1:])


@rule("fold-scale-before-bias", "Mul", "Div")
def fold_scale_before_bias(node: ir.Node, _context: Context) -> Outcome:
    """MatMul(x, W) -> Add b -> Mul s: MatMul(x, W*s) -> Add b*s.

    For products of rank above 2, which keep their bias in an Add of its own.
    """
    dims = rank(node.outputs[0])
    if dims is None:
        return None
    scale = affine_of(node, dims=dims, axis=dims - 1)
    add = owned_by(scale.data, "Add", like=node) if scale is not None else None
    shift = affine_of(add, dims=dims, axis=dims - 1) if add is not None else None
    if scale is None or add is None or shift is None:
        return None
    product = owned_by(shift.data, "MatMul", like=add)
    layer = linear_of(product) if product is not None else None
    if layer is None or product is None or obstacle(layer, scale) is not None:
        return None
    if {scale.scale.size, shift.shift.size} - {1, layer.outputs} or layer.dims != dims:
        return None
    scaled = partial(scaled_columns, layer, scale.scale)
    weight = rebuilt(layer, product.inputs[0], scaled, None)
    dtype = layer.tensor.dtype.numpy()
    bias = constant((shift.shift * scale.scale).astype(dtype), f"{add.name}_bias")
    return replace_with(node, weight, ir.node("Add", [weight.outputs[0], bias]))


@rule("matmul-add-to-gemm", "Add")
def matmul_add_to_gemm(node: ir.Node, context: Context) -> Outcome:
    """MatMul(x, W) -> Add b: Gemm(x, W, b), for rank 2 and a bias over the columns.

    Fires for computed W too. Declines (silently) for other ranks, where Gemm would need
    a Reshape on both sides.
    """
    for port in (0, 1):
        product = owned_by(node.inputs[port], "MatMul", like=node)
        bias = node.inputs[1 - port]
        if product is None or bias is None or bias.shape is None:
            continue
        if rank(product.inputs[0]) != 2 or rank(product.inputs[1]) != 2:
            continue
        if context.opset < 7 or const_tensor(bias) is None or rank(bias) not in (1, 2):
            continue
        columns = product.outputs[0].shape[1] if product.outputs[0].shape is not None else None
        if tuple(bias.shape)[-1] not in (1, columns) or (rank(bias) == 2 and bias.shape[0] != 1):
            continue
        gemm = ir.node("Gemm", [*product.inputs, bias])
        gemm.metadata_props.update(product.metadata_props)
        return replace_with(node, gemm)
    return None


@rule("fold-transpose-into-gemm", "Gemm", "MatMul")
def fold_transpose(node: ir.Node, context: Context) -> Outcome:
    """Transpose of a rank-2 operand -> Gemm: Gemm with transA or transB turned over.

    A MatMul of rank 2 becomes a Gemm; constants are left to constant folding.
    """
    if rank(node.inputs[0]) != 2 or rank(node.inputs[1]) != 2 or context.opset < 11:
        return None
    inputs, flags = list(node.inputs), {"transA": 0, "transB": 0}
    turned = False
    for port, name in ((0, "transA"), (1, "transB")):
        flags[name] = int(attribute(node, name, 0))
        before = owned_by(inputs[port], "Transpose", like=node)
        if before is not None and const_tensor(before.inputs[0]) is None:
            inputs[port], flags[name], turned = before.inputs[0], 1 - flags[name], True
    if not turned:
        return None
    kept = {"alpha": attribute(node, "alpha", 1.0), "beta": attribute(node, "beta", 1.0)}
    return replace_with(node, ir.node("Gemm", inputs, {**kept, **flags}))


RULES = (
    fold_batchnorm,
    fold_constant,
    fold_batchnorm_backward,
    fold_constant_backward,
    fold_scale_before_bias,
    matmul_add_to_gemm,
    fold_transpose,
)
