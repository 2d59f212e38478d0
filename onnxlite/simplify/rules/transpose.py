"""Transposes: merged, cancelled, and sunk through what works position by position.

Nets converted from channels-last frameworks carry a Transpose on both sides of every
convolution. Sinking moves each one down (a constant number of nodes each time) until it
meets its inverse and both vanish.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, rank, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    axes_of,
    bypass,
    const_ints,
    ints,
    made_by,
    replace_with,
    rule,
    small_const,
)

_UNARY = (
    "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
    "Clip", "Abs", "Neg", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Round", "Erf", "Softplus",
    "Softsign", "Gelu", "Mish", "Cast", "Not", "Sign", "Reciprocal", "Identity", "ThresholdedRelu",
)  # fmt: skip
_NARY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where", "PRelu")
_REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd")


def perm_of(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose: axis i of the output is axis perm[i] of the input."""
    dims = rank(node.inputs[0])
    perm: list[int] | None = attribute(node, "perm")
    if perm is None and dims is not None:
        perm = list(range(dims))[::-1]
    return perm


@rule("remove-transpose", "Transpose")
def remove_transpose(node: ir.Node, _context: Context) -> Outcome:
    """Transpose(x, identity) -> x."""
    perm = perm_of(node)
    return bypass(node, node.inputs[0]) if perm == list(range(len(perm or [0, 0]))) else None


@rule("merge-transposes", "Transpose")
def merge_transposes(node: ir.Node, _context: Context) -> Outcome:
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q]), or x if that is the identity."""
    inner = made_by(node.inputs[0], "Transpose", like=node)
    outer_perm = perm_of(node)
    inner_perm = perm_of(inner) if inner is not None else None
    if inner is None or outer_perm is None or inner_perm is None:
        return None
    perm = [inner_perm[axis] for axis in outer_perm]
    if perm == list(range(len(perm))):
        return bypass(node, inner.inputs[0])
    return replace_with(node, ir.node("Transpose", [inner.inputs[0]], {"perm": perm}))


@rule("transpose-to-reshape", "Transpose")
def transpose_to_reshape(node: ir.Node, _context: Context) -> Outcome:
    """Transpose that only moves axes of size 1 -> Reshape, which costs nothing.

    Declines unless at most one dimension is unknown and keeps its position.
    """
    data, perm = node.inputs[0], perm_of(node)
    if data is None or data.shape is None or perm is None:
        return None
    moved = [axis for axis in perm if static_dim(data, axis) != 1]
    if moved != sorted(moved):
        return None
    target: list[int] = []
    for position, axis in enumerate(perm):
        size = static_dim(data, axis)
        if size == 0:
            return None
        target.append(size if size is not None else (0 if position == axis else -1))
    if target.count(-1) > 1:
        return None
    return replace_with(node, ir.node("Reshape", [data, ints(target, f"{node.name}_shape")]))


def _source(value: ir.Value | None, like: ir.Node) -> tuple[ir.Value, list[int]] | None:
    """For the output of a Transpose that only `like` reads: its input and permutation."""
    node = made_by(value, "Transpose", like=like)
    if node is None or value is None or value.is_graph_output():
        return None
    if any(user is not like for user, _ in value.uses()):
        return None
    perm = perm_of(node)
    data = node.inputs[0]
    return None if perm is None or data is None else (data, perm)


def _down(node: ir.Node, moved: ir.Node, perm: list[int]) -> Replacement:
    """`moved`, then the Transpose."""
    moved.metadata_props.update(node.metadata_props)
    return replace_with(node, moved, ir.node("Transpose", [moved.outputs[0]], {"perm": perm}))


@rule("sink-transpose", *_UNARY)
def sink_through_unary(node: ir.Node, _context: Context) -> Outcome:
    """f(Transpose(x)) -> Transpose(f(x)). Declines when the Transpose has other readers."""
    found = _source(node.inputs[0], node)
    if found is None:
        return None
    inputs = [found[0], *node.inputs[1:]]
    return _down(node, ir.Node("", node.op_type, inputs, node.attributes.values()), found[1])


@rule("sink-transpose", *_NARY)
def sink_through_nary(node: ir.Node, _context: Context) -> Outcome:
    """f(Transpose(x), Transpose(y)) -> Transpose(f(x, y)); constants are transposed back.

    Declines when the permutations differ, or an operand is computed and not transposed.
    """
    perm: list[int] | None = None
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        found = _source(value, node)
        if found is not None:
            if perm is not None and perm != found[1]:
                return None
            perm = found[1]
    if perm is None:
        return None
    for value in node.inputs:
        found = _source(value, node)
        operand = found[0] if found is not None else _back(value, perm, node)
        if operand is None:
            return None
        inputs.append(operand)
    return _down(node, ir.Node("", node.op_type, inputs, node.attributes.values()), perm)


def _back(value: ir.Value | None, perm: list[int], node: ir.Node) -> ir.Value | None:
    """A constant or single-element operand as it must look before the Transpose."""
    if value is None:
        return None
    if value.shape is not None and all(dim == 1 for dim in value.shape):
        return value if len(value.shape) <= len(perm) else None
    array = small_const(value)
    if array is None or array.ndim > len(perm):
        return None
    if node.op_type == "PRelu" and array.ndim != len(perm):
        array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    padded = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return constant(padded.transpose(np.argsort(perm)), value.name or "constant")


@rule("sink-transpose", "Concat")
def sink_through_concat(node: ir.Node, _context: Context) -> Outcome:
    """Concat(Transpose(x), Transpose(y)) -> Transpose(Concat(x, y)) along the moved axis."""
    found = [_source(value, node) for value in node.inputs]
    first = found[0]
    if first is None or any(item is None or item[1] != first[1] for item in found):
        return None
    perm = first[1]
    axis = perm[int(attribute(node, "axis", 1)) % len(perm)]
    data = [item[0] for item in found if item is not None]
    return _down(node, ir.node("Concat", data, {"axis": axis}), perm)


@rule("sink-transpose", *_REDUCE)
def sink_through_reduce(node: ir.Node, _context: Context) -> Outcome:
    """ReduceX(Transpose(x), axes) -> [Transpose](ReduceX(x, moved axes)).

    Without keepdims the remaining axes may already be in order, then no Transpose is left.
    """
    found = _source(node.inputs[0], node)
    axes = axes_of(node)
    if found is None or not axes:  # no axes mean all of them, or none: not worth a rule
        return None
    data, perm = found
    moved = sorted(perm[axis % len(perm)] for axis in axes)
    inputs: list[ir.Value | None] = [data]
    attributes = dict(node.attributes)
    if len(node.inputs) > 1:
        inputs.append(ints(moved, f"{node.name}_axes"))
    else:
        attributes["axes"] = ir.AttrInt64s("axes", moved)
    new = ir.Node("", node.op_type, inputs, attributes.values())
    if attribute(node, "keepdims", 1):
        return _down(node, new, perm)
    kept = [axis for axis in perm if axis not in moved]
    if kept == sorted(kept):
        return replace_with(node, new)
    return _down(node, new, [sorted(kept).index(axis) for axis in kept])


@rule("sink-transpose", "Softmax", "LogSoftmax")
def sink_through_axis(node: ir.Node, context: Context) -> Outcome:
    """Softmax(Transpose(x), axis) -> Transpose(Softmax(x, moved axis)).

    Declines below opset 13, where Softmax flattened its input.
    """
    found = _source(node.inputs[0], node)
    if found is None or context.opset < 13:
        return None
    axis = found[1][int(attribute(node, "axis", -1)) % len(found[1])]
    return _down(node, ir.node(node.op_type, [found[0]], {"axis": axis}), found[1])


@rule("sink-transpose", "Pad")
def sink_through_pad(node: ir.Node, _context: Context) -> Outcome:
    """Pad(Transpose(x), pads) -> Transpose(Pad(x, moved pads)). Declines for computed pads."""
    found = _source(node.inputs[0], node)
    if found is None or len(node.inputs) > 3:
        return None
    data, perm = found
    dims = len(perm)
    pads = attribute(node, "pads") or (const_ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    if pads is None or len(pads) != 2 * dims:
        return None
    moved = [0] * (2 * dims)
    for position, axis in enumerate(perm):
        moved[axis], moved[dims + axis] = pads[position], pads[dims + position]
    attributes = dict(node.attributes)
    inputs: list[ir.Value | None] = [data]
    if "pads" in attributes:
        attributes["pads"] = ir.AttrInt64s("pads", moved)
    else:
        inputs += [ints(moved, f"{node.name}_pads"), *node.inputs[2:]]
    return _down(node, ir.Node("", "Pad", inputs, attributes.values()), perm)


@rule("sink-transpose", "Squeeze")
def sink_through_squeeze(node: ir.Node, _context: Context) -> Outcome:
    """Squeeze(Transpose(x), axes) -> [Transpose](Squeeze(x, moved axes))."""
    found = _source(node.inputs[0], node)
    axes = axes_of(node)
    if found is None or not axes:
        return None
    data, perm = found
    moved = sorted(perm[axis % len(perm)] for axis in axes)
    if len(node.inputs) > 1:
        new = ir.node("Squeeze", [data, ints(moved, f"{node.name}_axes")])
    else:
        new = ir.node("Squeeze", [data], {"axes": moved})
    kept = [axis for axis in perm if axis not in moved]
    if kept == sorted(kept):
        return replace_with(node, new)
    return _down(node, new, [sorted(kept).index(axis) for axis in kept])


RULES = (
    remove_transpose,
    merge_transposes,
    sink_through_unary,
    sink_through_nary,
    sink_through_concat,
    sink_through_reduce,
    sink_through_axis,
    sink_through_pad,
    sink_through_squeeze,
    transpose_to_reshape,
)
