"""Per-channel multiplications and additions by constants, wherever exporters put them.

`Affine` is the common form of BatchNormalization, Mul, Div, Add and Sub by a constant:
`y = scale * x + shift` along one channel axis. The rules here merge neighbouring ones;
`linear` folds them into convolutions and matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, constant, is_op, rank
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Refused,
    const_operand,
    is_float,
    owned_by,
    replace_with,
    rule,
    small_const,
)

AFFINE_OPS = ("BatchNormalization", "Mul", "Div", "Add", "Sub")


@dataclass(frozen=True)
class Affine:
    """`y = scale * data + shift`; float64, each of shape [] or [channels]."""

    data: ir.Value
    scale: NDArray[Any]
    shift: NDArray[Any]

    @property
    def finite(self) -> bool:
        """True if all coefficients are finite numbers."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())


def affine_of(node: ir.Node, *, dims: int, axis: int) -> Affine | None:
    """Read a node as an affine map over channels.

    Args:
        node: one of `AFFINE_OPS`.
        dims: rank of its data.
        axis: the channel axis, counted from the front.

    Returns:
        None if it is something else: computed operands, a constant that varies along
        another axis or has a higher rank, integers, a BatchNormalization in training.
    """
    if is_op(node, "BatchNormalization"):
        return _batchnorm(node) if axis == 1 else None
    if not 0 <= axis < dims:
        return None
    if not is_op(node, "Mul", "Div", "Add", "Sub") or not is_float(node.outputs[0]):
        return None
    operand = const_operand(node)
    if operand is None:
        return None
    vector = _channel_vector(operand.array, dims=dims, axis=axis)
    if vector is None:
        return None
    one, zero = np.ones(()), np.zeros(())
    match node.op_type:
        case "Mul":
            return Affine(operand.data, vector, zero)
        case "Add":
            return Affine(operand.data, one, vector)
        case "Sub":
            return (
                Affine(operand.data, one, -vector)
                if operand.port == 1
                else Affine(operand.data, -one, vector)
            )
        case _:
            if operand.port == 0 or not vector.all():
                return None
            return Affine(operand.data, 1 / vector, zero)


def _batchnorm(node: ir.Node) -> Affine | None:
    """Read gamma * (x - mean) / sqrt(var + eps) + beta, in inference mode."""
    if attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1):
        return None
    if len(node.inputs) != 5 or any(output.uses() for output in node.outputs[1:]):
        return None
    if not attribute(node, "is_test", 1):
        return None
    parts = [small_const(value) for value in node.inputs[1:]]
    if any(part is None for part in parts) or node.inputs[0] is None:
        return None
    gamma, beta, mean, var = (np.asarray(part, np.float64) for part in parts)
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    return Affine(node.inputs[0], scale, beta - mean * scale)


def _channel_vector(array: NDArray[Any], *, dims: int, axis: int) -> NDArray[Any] | None:
    if array.ndim > dims:
        return None
    padded = (1,) * (dims - array.ndim) + array.shape
    if array.size != padded[axis]:
        return None
    vector = array.astype(np.float64).reshape(-1)
    return vector.reshape(()) if vector.size == 1 else vector


@rule("merge-affine", "Mul", "Div", "Add", "Sub")
def merge_constants(node: ir.Node, _context: Context) -> Outcome:
    """(x + a) + b -> x + (a + b), and (x * a) * b -> x * (a * b); Sub and Div alike.

    Declines where the merged constant would be larger than both.
    """
    second = const_operand(node)
    additive = node.op_type in ("Add", "Sub")
    ops = ("Add", "Sub") if additive else ("Mul", "Div")
    if second is None or not is_float(node.outputs[0]):
        return None
    inner = owned_by(second.data, *ops, like=node)
    first = const_operand(inner) if inner is not None else None
    if inner is None or first is None:
        return None
    if (inner.op_type in ("Sub", "Div") and first.port == 0) or (
        node.op_type in ("Sub", "Div") and second.port == 0
    ):
        return None
    a, b = (
        _normal(op, array.astype(np.float64))
        for op, array in ((inner.op_type, first.array), (node.op_type, second.array))
    )
    merged = a + b if additive else a * b
    if merged.size > max(a.size, b.size) or not np.isfinite(merged).all():
        return None
    value = constant(merged.astype(second.array.dtype), f"{node.name}_merged")
    return replace_with(node, ir.node("Add" if additive else "Mul", [first.data, value]))


def _normal(op_type: str, array: NDArray[Any]) -> NDArray[Any]:
    """The constant of the equivalent Add or Mul."""
    if op_type == "Sub":
        return -array
    with np.errstate(divide="ignore"):
        return 1 / array if op_type == "Div" else array


@rule("merge-batchnorm", *AFFINE_OPS)
def absorb_into_batchnorm(node: ir.Node, _context: Context) -> Outcome:
    """BatchNormalization -> Mul/Add/Sub/Div, in either order -> one BatchNormalization.

    Declines when the coefficients would not be finite.
    """
    output = node.outputs[0]
    dims = rank(output) or (rank(node.inputs[0]) if is_op(node, "BatchNormalization") else None)
    if dims is None or dims < 2:
        return None
    outer = affine_of(node, dims=dims, axis=1)
    if outer is None:
        return None
    inner_node = owned_by(outer.data, *AFFINE_OPS, like=node)
    if inner_node is None:
        return None
    norm = next((n for n in (node, inner_node) if is_op(n, "BatchNormalization")), None)
    inner = affine_of(inner_node, dims=dims, axis=1)
    if norm is None or inner is None:
        return None
    channels = int(norm.inputs[1].shape[0])  # type: ignore[union-attr,index,arg-type]
    scale, shift = outer.scale * inner.scale, outer.scale * inner.shift + outer.shift
    if {scale.size, shift.size} - {1, channels}:
        return None
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return Refused("a folded coefficient is not finite")
    return replace_with(node, _plain_batchnorm(inner.data, scale, shift, norm, channels))


def _plain_batchnorm(
    data: ir.Value, scale: NDArray[Any], shift: NDArray[Any], like: ir.Node, channels: int
) -> ir.Node:
    """A BatchNormalization with mean 0 and variance 1 that computes `scale * x + shift`."""
    template = small_const(like.inputs[1])
    assert template is not None
    epsilon = float(attribute(like, "epsilon", 1e-5))
    gamma = np.broadcast_to(scale, (channels,)) * np.sqrt(1 + epsilon)
    vectors = (gamma, np.broadcast_to(shift, (channels,)), np.zeros(channels), np.ones(channels))
    names = ("scale", "bias", "mean", "var")
    return ir.node(
        "BatchNormalization",
        [
            data,
            *(
                constant(vector.astype(template.dtype), f"{like.name}_{name}")
                for vector, name in zip(vectors, names, strict=True)
            ),
        ],
        {"epsilon": epsilon},
    )


RULES = (absorb_into_batchnorm, merge_constants)
