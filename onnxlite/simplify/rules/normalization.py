"""Normalizations that exporters write out as means and roots."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_tensor, constant, is_op, rank, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Refused,
    axes_of,
    const_operand,
    made_by,
    near,
    owned_by,
    replace_with,
    rule,
    small_const,
)

#: First operator set with LayerNormalization.
_LAYERNORM = 17


def _mean_axes(node: ir.Node, dims: int) -> list[int] | None:
    axes = axes_of(node)
    if axes is None or not attribute(node, "keepdims", 1):
        return None
    return sorted(axis % dims for axis in axes)


def _normalized(node: ir.Node) -> tuple[ir.Value, int, float] | None:
    """For `node` = (x - mean(x)) / sqrt(var(x) + eps): x, the first axis, and eps."""
    centered = node.inputs[0]
    root = made_by(node.inputs[1], "Sqrt", like=node)
    add = made_by(root.inputs[0], "Add", like=node) if root is not None else None
    sub = made_by(centered, "Sub", like=node)
    operand = const_operand(add) if add is not None else None
    if add is None or operand is None or sub is None or operand.array.size != 1:
        return None
    data = sub.inputs[0]
    dims = rank(data)
    mean = made_by(sub.inputs[1], "ReduceMean", like=node)
    variance = made_by(operand.data, "ReduceMean", like=node)
    if data is None or dims is None or mean is None or variance is None:
        return None
    if mean.inputs[0] is not data or not _is_square_of(variance.inputs[0], centered, node):
        return None
    axes = _mean_axes(mean, dims)
    if axes is None or axes != _mean_axes(variance, dims):
        return None
    if axes != list(range(axes[0], dims)):
        return None
    return data, axes[0], float(operand.array.item())


def _is_square_of(value: ir.Value | None, base: ir.Value | None, like: ir.Node) -> bool:
    """Return True for value = base ** 2, where base may have been computed twice or cast."""
    power = made_by(value, "Pow", "Mul", like=like)
    if power is None:
        return False
    if power.op_type == "Pow" and not near(power.inputs[1], 2):
        return False
    if power.op_type == "Mul" and power.inputs[0] is not power.inputs[1]:
        return False
    return power.inputs[0] is base or _same_difference(power.inputs[0], base, like)


def _same_difference(a: ir.Value | None, b: ir.Value | None, like: ir.Node) -> bool:
    """Old exporters compute x - mean twice; both count as one value."""
    left, right = made_by(a, "Sub", like=like), made_by(b, "Sub", like=like)
    return left is not None and right is not None and list(left.inputs) == list(right.inputs)


@rule("fuse-layernorm", "Div")
def fuse_layernorm(node: ir.Node, context: Context) -> Outcome:
    """(x - mean(x)) / Sqrt(var(x) + eps) -> LayerNormalization with a scale of ones.

    `fold_layernorm_affine` then takes up the real scale and bias. Declines below opset 17
    and (silently) when the normalised axes are not the last ones or of unknown size.
    """
    found = _normalized(node)
    if found is None:
        return None
    if context.opset < _LAYERNORM:
        message = f"LayerNormalization needs opset {_LAYERNORM}, the model has {context.opset}"
        return Refused(message)
    data, axis, epsilon = found
    dims = rank(data) or 0
    sizes = [static_dim(data, i) for i in range(axis, dims)]
    if data.dtype is None or any(size is None for size in sizes):
        return None
    ones = np.ones([size for size in sizes if size is not None], data.dtype.numpy())
    norm = ir.node(
        "LayerNormalization",
        [data, constant(ones, f"{node.name}_scale")],
        {"axis": axis - dims, "epsilon": epsilon},
    )
    return replace_with(node, norm)


@rule("fold-layernorm-affine", "Mul", "Add")
def fold_layernorm_affine(node: ir.Node, _context: Context) -> Outcome:
    """LayerNormalization -> Mul or Add by a constant of the normalised shape: the norm alone."""
    operand = const_operand(node)
    norm = owned_by(operand.data, "LayerNormalization", like=node) if operand else None
    if operand is None or norm is None:
        return None
    scale = small_const(norm.inputs[1])
    bias = small_const(norm.inputs[2]) if len(norm.inputs) > 2 else None
    if scale is None or (len(norm.inputs) > 2 and bias is None):
        return None
    if operand.array.shape not in ((), (1,), scale.shape):
        return None
    wide = np.float64
    if bias is None:
        bias = np.zeros_like(scale)
    if node.op_type == "Mul":
        new_scale = scale.astype(wide) * operand.array
        new_bias = bias.astype(wide) * operand.array
    else:
        new_scale, new_bias = scale.astype(wide), bias.astype(wide) + operand.array
    inputs = [
        norm.inputs[0],
        constant(new_scale.astype(scale.dtype), f"{norm.name}_scale"),
        constant(new_bias.astype(scale.dtype), f"{norm.name}_bias"),
    ]
    return replace_with(node, ir.Node("", "LayerNormalization", inputs, norm.attributes.values()))


@rule("sum-before-layernorm", "Add")
def sum_before_layernorm(node: ir.Node, _context: Context) -> Outcome:
    """Add -> LayerNormalization, or its parts: Sum -> LayerNormalization.

    ONNX Runtime makes one SkipLayerNormalization of Add and LayerNormalization, which takes four
    times as long on the CPU as the two by themselves (MiniLM, 128 tokens: 614 and 140 us); Sum it
    leaves alone.
    """
    result = node.outputs[0]
    if not all(value is not None and const_tensor(value) is None for value in node.inputs):
        return None
    if result.dtype != ir.DataType.FLOAT or len({rank(value) for value in node.inputs}) != 1:
        return None
    if not any(_normalizes(use.node, result) for use in result.uses()):
        return None
    return replace_with(node, ir.node("Sum", list(node.inputs)))


def _normalizes(node: ir.Node, value: ir.Value) -> bool:
    """Tell whether a node is a LayerNormalization of a value, or the difference in its parts."""
    if is_op(node, "LayerNormalization"):
        return node.inputs[0] is value
    if not is_op(node, "Sub"):
        return False
    for use in node.outputs[0].uses():
        found = _normalized(use.node) if is_op(use.node, "Div") else None
        if found is not None and found[0] is value:
            return True
    return False


RULES = (fuse_layernorm, fold_layernorm_affine, sum_before_layernorm)
