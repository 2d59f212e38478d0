"""Questions that rules ask about a node's neighbourhood."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_array, const_tensor, is_op, rank, scalar, sole_consumer

#: Constants above this many elements are weights; no rule looks for a pattern in them.
SMALL = 1 << 16


class ConstOperand(NamedTuple):
    """A binary node with one constant operand: `data (op) array`, constant at `port`."""

    data: ir.Value
    array: NDArray[Any]
    port: int


def made_by(value: ir.Value | None, *op_types: str, like: ir.Node) -> ir.Node | None:
    """The node that makes `value`, if it is one of these and in the same graph as `like`."""
    if value is None:
        return None
    producer = value.producer()
    if producer is None or producer.graph is not like.graph or not is_op(producer, *op_types):
        return None
    return producer


def owned_by(value: ir.Value | None, *op_types: str, like: ir.Node) -> ir.Node | None:
    """As `made_by`, and `like` is the only reader, so that both can be replaced as one."""
    producer = made_by(value, *op_types, like=like)
    if producer is None or value is None:
        return None
    if len(producer.outputs) > 1 and any(o.uses() for o in producer.outputs[1:]):
        return None
    return producer if sole_consumer(value) is like else None


def small_const(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant of at most `SMALL` elements of a numeric type; larger ones stay unread."""
    tensor = const_tensor(value)
    if tensor is None or tensor.size > SMALL or tensor.dtype == ir.DataType.STRING:
        return None
    return const_array(value)


def const_operand(node: ir.Node) -> ConstOperand | None:
    """Split a binary node into its data and its small constant."""
    if len(node.inputs) != 2:
        return None
    for port in (1, 0):
        data, array = node.inputs[1 - port], small_const(node.inputs[port])
        if array is not None and data is not None and const_tensor(data) is None:
            return ConstOperand(data, array, port)
    return None


def near(value: ir.Value | None, target: float, *, rtol: float = 1e-4) -> bool:
    """Whether `value` is a one-element constant equal to `target` up to rounding."""
    number = scalar(value)
    return number is not None and bool(np.isclose(float(number), target, rtol=rtol, atol=1e-12))


def other_input(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The operand of a binary node that is not `value`."""
    if len(node.inputs) != 2 or value not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def const_ints(value: ir.Value | None) -> list[int] | None:
    """The numbers of a constant integer scalar or vector."""
    array = small_const(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return [int(item) for item in array.reshape(-1)]


def axes_of(node: ir.Node, port: int = 1) -> list[int] | None:
    """The constant axes of a node, from an input or (older opsets) an attribute.

    None when they are computed or absent; see `has_axes` for the difference.
    """
    if port < len(node.inputs) and node.inputs[port] is not None:
        return const_ints(node.inputs[port])
    axes = attribute(node, "axes")
    return None if axes is None else [int(axis) for axis in axes]


def has_axes(node: ir.Node, port: int = 1) -> bool:
    """Whether a node names its axes at all."""
    return (port < len(node.inputs) and node.inputs[port] is not None) or (
        "axes" in node.attributes
    )


def positive(axis: int, dims: int) -> int:
    """An axis counted from the front."""
    return axis + dims if axis < 0 else axis


def same_value_shape(left: ir.Value | None, right: ir.Value | None) -> bool:
    """Whether two values certainly have the same shape (named dimensions compare by name)."""
    if left is None or right is None or left.shape is None or right.shape is None:
        return False
    return len(left.shape) == len(right.shape) and all(
        same_dim(a, b) for a, b in zip(left.shape, right.shape, strict=True)
    )


def same_dim(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """Whether two dimensions are certainly equal."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.value is not None and a.value == b.value


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is known to be of a floating-point type."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def broadcasts_into(array: NDArray[Any], value: ir.Value) -> bool:
    """Whether combining `array` with `value` surely keeps the shape of `value`."""
    dims = rank(value)
    if array.size == 1 and array.ndim == 0:
        return True
    if dims is None or array.ndim > dims or value.shape is None:
        return False
    tail = list(value.shape)[dims - array.ndim :]
    return all(n == 1 or n == dim for n, dim in zip(array.shape, tail, strict=True))
