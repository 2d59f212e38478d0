"""Products of one computed and one constant matrix: which operand is which, and in what form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import const_array, const_tensor, is_op
from onnxlite.ops.geometry import GemmForm


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm node with a constant operand: `alpha * (data @ weight) + beta * bias`.

    Attributes:
        node: the node.
        data: the operand that is computed at run time.
        weight: the constant operand, as it is stored.
        side: where the constant operand stands.
        transposed: the product takes the stored weight transposed.
        alpha: factor of the product.
        bias: what is added, if anything: broadcast over the rows.
        beta: factor of the bias.
    """

    node: ir.Node
    data: ir.Value
    weight: ir.Value
    side: Literal["left", "right"]
    transposed: bool = False
    alpha: float = 1.0
    bias: ir.Value | None = None
    beta: float = 1.0

    def matrix(self) -> NDArray[Any]:
        """The weight as MatMul takes it, times alpha: float32[..., k, n] (left: [..., m, k])."""
        array = const_array(self.weight)
        assert array is not None
        array = array.T if self.transposed else array
        return np.ascontiguousarray(array * np.float32(self.alpha), dtype=np.float32)


def find_product(node: ir.Node) -> Product | str | None:
    """The product that a node computes.

    Returns:
        The product; why it has no float32 matrix as a constant operand; or None for nodes
        that multiply no matrices.
    """
    if is_op(node, "MatMul"):
        return _matmul(node)
    if is_op(node, "Gemm"):
        return _gemm(node)
    return None


def _matmul(node: ir.Node) -> Product | str:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    constant = (const_tensor(left) is not None, const_tensor(right) is not None)
    if all(constant):
        return "both of its operands are constants"
    if not any(constant):
        return (
            "both of its operands are computed at run time, and to quantize both costs about "
            "what integers gain"
        )
    data, weight = (right, left) if constant[0] else (left, right)
    side: Literal["left", "right"] = "left" if constant[0] else "right"
    return _refusal(data, weight) or Product(node, data, weight, side)


def _gemm(node: ir.Node) -> Product | str:
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None
    assert weight is not None
    if const_tensor(weight) is None:
        return "its second operand is computed at run time, not a constant weight"
    if const_tensor(data) is not None:
        return "both of its operands are constants"
    form = GemmForm.of(node)
    if form.data_transposed:
        return "it transposes its data (transA)"
    return _refusal(data, weight) or Product(
        node,
        data,
        weight,
        "right",
        transposed=form.weight_transposed,
        alpha=form.alpha,
        bias=node.inputs[2] if len(node.inputs) > 2 else None,
        beta=form.beta,
    )


def _refusal(data: ir.Value, weight: ir.Value) -> str | None:
    tensor = const_tensor(weight)
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight {tensor.name!r} is {tensor.dtype}, not float32"
    if data.dtype not in (None, ir.DataType.FLOAT):
        return f"its data are {data.dtype}, not float32"
    if not tensor.size:
        return f"its weight {tensor.name!r} is empty"
    if len(tensor.shape) < 2:
        return f"its weight {tensor.name!r} has less than two axes"
    return None
