"""Nodes that do nothing, or nothing that a neighbour does not do already."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_tensor, rank, scalar, static_dim
from onnxlite.ops import spec_of
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    axes_of,
    broadcasts_into,
    bypass,
    const_ints,
    const_operand,
    has_axes,
    made_by,
    positive,
    replace_with,
    rule,
    same_dim,
    same_value_shape,
)

_INT_MAX = np.iinfo(np.int32).max


@rule("remove-identity", "Identity")
def remove_identity(node: ir.Node, _context: Context) -> Outcome:
    """Identity(x) -> x. Declines between a graph's input or constant and its output."""
    return bypass(node, node.inputs[0])


@rule("remove-dropout", "Dropout")
def remove_dropout(node: ir.Node, _context: Context) -> Outcome:
    """Dropout(x) -> x in inference. Declines in training mode or if the mask is read."""
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and scalar(node.inputs[2]) is not False:
        return None
    return bypass(node, node.inputs[0])


@rule("remove-cast", "Cast", "CastLike")
def remove_cast(node: ir.Node, _context: Context) -> Outcome:
    """Cast(x, type of x) -> x. Declines while a type is unknown."""
    data, output = node.inputs[0], node.outputs[0]
    if data is None or data.dtype is None or data.dtype != output.dtype:
        return None
    return bypass(node, data)


_T = ir.DataType
#: Each type holds every value of the types before it in its row.
_WIDENING = (
    (_T.BOOL, _T.INT8, _T.INT16, _T.INT32, _T.INT64),
    (_T.BOOL, _T.UINT8, _T.INT16, _T.INT32, _T.INT64),
    (_T.BOOL, _T.FLOAT16, _T.FLOAT, _T.DOUBLE),
)
#: Casts from the first to the second lose nothing.
_EXACT_CASTS = frozenset(
    (narrow, wide) for row in _WIDENING for i, narrow in enumerate(row) for wide in row[i + 1 :]
)


@rule("merge-casts", "Cast")
def merge_casts(node: ir.Node, _context: Context) -> Outcome:
    """Cast(Cast(x, wider), t) -> Cast(x, t). Declines when the first cast loses values."""
    inner = made_by(node.inputs[0], "Cast", like=node)
    source = inner.inputs[0] if inner is not None else None
    if inner is None or source is None or source.dtype is None or node.inputs[0] is None:
        return None
    if (source.dtype, node.inputs[0].dtype) not in _EXACT_CASTS:
        return None
    return replace_with(node, ir.Node("", "Cast", [source], node.attributes.values()))


@rule("remove-neutral", "Add", "Sub", "Mul", "Div", "Pow", "And", "Or")
def remove_neutral(node: ir.Node, _context: Context) -> Outcome:
    """Remove x + 0, x - 0, x * 1, x / 1, x ** 1, x and true, x or false -> x.

    Declines when the constant widens the shape by broadcasting.
    """
    operand = const_operand(node)
    if operand is None or operand.array.size == 0:
        return None
    if operand.port == 0 and node.op_type in ("Sub", "Div", "Pow"):
        return None
    neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "And": True, "Or": False}
    if not bool(np.all(operand.array == neutral[node.op_type])):
        return None
    if operand.data.dtype != node.outputs[0].dtype or not broadcasts_into(
        operand.array, operand.data
    ):
        return None
    return bypass(node, operand.data)


@rule("remove-single-input", "Concat", "Sum", "Max", "Min", "Mean")
def remove_single_input(node: ir.Node, _context: Context) -> Outcome:
    """Concat(x), Sum(x), Max(x), Min(x), Mean(x) -> x."""
    return bypass(node, node.inputs[0]) if len(node.inputs) == 1 else None


@rule("remove-clip", "Clip")
def remove_clip(node: ir.Node, _context: Context) -> Outcome:
    """Clip(x) without bounds -> x."""
    bounded = any(value is not None for value in node.inputs[1:])
    if bounded or "min" in node.attributes or "max" in node.attributes:
        return None
    return bypass(node, node.inputs[0])


@rule("remove-pad", "Pad")
def remove_pad(node: ir.Node, _context: Context) -> Outcome:
    """Pad(x, zeros) -> x."""
    pads = attribute(node, "pads")
    if pads is None and len(node.inputs) > 1:
        pads = const_ints(node.inputs[1])
    return bypass(node, node.inputs[0]) if pads is not None and not any(pads) else None


@rule("remove-slice", "Slice")
def remove_slice(node: ir.Node, _context: Context) -> Outcome:
    """Slice(x) that takes everything -> x. Declines for computed bounds."""
    data = node.inputs[0]
    starts, ends, axes, steps = slice_bounds(node) or ([1], [], [], [])
    if data is None or any(starts) or any(step != 1 for step in steps):
        return None
    for axis, end in zip(axes, ends, strict=True):
        dim = static_dim(data, axis)
        if end < _INT_MAX and (dim is None or end < dim):
            return None
    return bypass(node, data)


def slice_bounds(
    node: ir.Node,
) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Constant starts, ends, axes and steps of a Slice, from inputs or attributes."""
    if len(node.inputs) == 1:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        if starts is None or ends is None:
            return None
        axes = attribute(node, "axes", list(range(len(starts))))
        return starts, ends, axes, [1] * len(starts)
    parts = [const_ints(value) for value in node.inputs[1:]]
    starts, ends = parts[0], parts[1]
    if starts is None or ends is None:
        return None
    given = [value is not None for value in node.inputs[1:]]
    axes = parts[2] if len(parts) > 2 and given[2] else list(range(len(starts)))
    steps = parts[3] if len(parts) > 3 and given[3] else [1] * len(starts)
    return None if axes is None or steps is None else (starts, ends, axes, steps)


@rule("remove-expand", "Expand")
def remove_expand(node: ir.Node, _context: Context) -> Outcome:
    """Expand(x, s) -> x where every s is 1 or the dimension that x has."""
    data, target = node.inputs[0], const_ints(node.inputs[1])
    if data is None or target is None or data.shape is None or len(target) > len(data.shape):
        return None
    tail = list(data.shape)[len(data.shape) - len(target) :]
    if any(n not in (1, dim) for n, dim in zip(target, tail, strict=True)):
        return None
    return bypass(node, data)


@rule("remove-tile", "Tile")
def remove_tile(node: ir.Node, _context: Context) -> Outcome:
    """Tile(x, ones) -> x."""
    repeats = const_ints(node.inputs[1])
    return bypass(node, node.inputs[0]) if repeats and all(r == 1 for r in repeats) else None


@rule("remove-split", "Split")
def remove_split(node: ir.Node, _context: Context) -> Outcome:
    """Split(x) into one part -> x."""
    return bypass(node, node.inputs[0]) if len(node.outputs) == 1 else None


@rule("remove-resize", "Resize", "Upsample")
def remove_resize(node: ir.Node, _context: Context) -> Outcome:
    """Resize(x) by factors of 1 -> x. Declines when a region of interest crops."""
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    port = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    value = node.inputs[port] if len(node.inputs) > port else None
    tensor = const_tensor(value)
    if tensor is None or tensor.size == 0 or not bool(np.all(tensor.numpy() == 1)):
        return None
    return bypass(node, node.inputs[0])


#: f(f(x)) == f(x).
_IDEMPOTENT = frozenset({"Relu", "Abs", "Ceil", "Floor", "Round", "Sign"})


@rule("remove-repeated", *sorted(_IDEMPOTENT))
def remove_repeated(node: ir.Node, _context: Context) -> Outcome:
    """Relu(Relu(x)) -> Relu(x); Abs, Ceil, Floor, Round and Sign alike."""
    return (
        bypass(node, node.inputs[0]) if made_by(node.inputs[0], node.op_type, like=node) else None
    )


@rule("remove-inverse", "Neg", "Not")
def remove_inverse(node: ir.Node, _context: Context) -> Outcome:
    """Neg(Neg(x)) -> x; Not alike."""
    inner = made_by(node.inputs[0], node.op_type, like=node)
    return bypass(node, inner.inputs[0]) if inner is not None else None


@rule("remove-reduction", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
def remove_reduction(node: ir.Node, _context: Context) -> Outcome:
    """ReduceX(x, axes of size 1, keepdims) -> x."""
    data = node.inputs[0]
    axes = axes_of(node)
    if data is None or not has_axes(node) or not axes or not attribute(node, "keepdims", 1):
        return None
    if any(static_dim(data, axis) != 1 for axis in axes):
        return None
    return bypass(node, data)


@rule("remove-where", "Where")
def remove_where(node: ir.Node, _context: Context) -> Outcome:
    """Replace Where(constant, a, b) -> a or b. Declines when the other operand would broadcast."""
    tensor = const_tensor(node.inputs[0])
    if tensor is None or tensor.size == 0 or tensor.size > 1 << 16:
        return None
    condition = tensor.numpy()
    if not (condition.all() or not condition.any()):
        return None
    kept = node.inputs[1 if condition.all() else 2]
    return bypass(node, kept) if same_value_shape(kept, node.outputs[0]) else None


@rule("merge-common-subexpressions")
def merge_common(node: ir.Node, context: Context) -> Outcome:
    """f(x), f(x) -> one f(x) read by both.

    Declines for random operators, for subgraphs, and where both are graph outputs.
    """
    if spec_of(node).random or not node.inputs:
        return None
    first = next((value for value in node.inputs if value is not None), None)
    if first is None or any(o.is_graph_output() for o in node.outputs):
        return None
    for twin, _ in first.uses():
        if twin is not node and context.precedes(twin) and _equal(node, twin):
            return Replacement((), tuple(zip(node.outputs, twin.outputs, strict=True)))
    return None


def _equal(a: ir.Node, b: ir.Node) -> bool:
    if a.op_identifier() != b.op_identifier() or len(a.outputs) != len(b.outputs):
        return False
    if len(a.inputs) != len(b.inputs) or set(a.attributes) != set(b.attributes):
        return False
    return all(x is y for x, y in zip(a.inputs, b.inputs, strict=True)) and all(
        _equal_attributes(value, b.attributes[name]) for name, value in a.attributes.items()
    )


def _equal_attributes(a: ir.Attr, b: ir.Attr) -> bool:
    simple = {
        ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS, ir.AttributeType.STRING, ir.AttributeType.STRINGS,
    }  # fmt: skip
    if a.is_ref() or b.is_ref() or a.type != b.type or a.type not in simple:
        return False
    return bool(a.value == b.value)


@rule("merge-concats", "Concat")
def merge_concats(node: ir.Node, _context: Context) -> Outcome:
    """Concat(a, Concat(b, c)) -> Concat(a, b, c) along one axis.

    Declines when the inner result has other readers.
    """
    dims = rank(node.outputs[0])
    if dims is None:
        return None
    axis = positive(int(attribute(node, "axis", 1)), dims)
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        inner = made_by(value, "Concat", like=node)
        if inner is not None and value is not None and not value.is_graph_output():
            mine = len(list(value.uses())) == sum(v is value for v in node.inputs)
            if mine and positive(int(attribute(inner, "axis", 1)), dims) == axis:
                inputs += inner.inputs
                continue
        inputs.append(value)
    if len(inputs) == len(node.inputs):
        return None
    return replace_with(node, ir.node("Concat", inputs, {"axis": axis}))


@rule("remove-flatten", "Flatten")
def remove_flatten(node: ir.Node, _context: Context) -> Outcome:
    """Flatten(x, axis 1) of a rank-2 x -> x."""
    if rank(node.inputs[0]) != 2 or int(attribute(node, "axis", 1)) not in (1, -1):
        return None
    return bypass(node, node.inputs[0])


@rule("remove-reshape", "Reshape")
def remove_reshape(node: ir.Node, _context: Context) -> Outcome:
    """Reshape(x, the shape of x) -> x; one dimension may be unknown."""
    data, target = node.inputs[0], const_ints(node.inputs[1])
    if data is None or data.shape is None or target is None or len(target) != len(data.shape):
        return None
    if attribute(node, "allowzero", 0) and 0 in target:
        return None
    open_dims = [
        n
        for n, dim in zip(target, data.shape, strict=True)
        if n != 0 and not (isinstance(dim, int) and same_dim(n, dim))
    ]
    return bypass(node, data) if not open_dims or open_dims == [-1] else None


RULES = (
    remove_identity,
    remove_dropout,
    remove_cast,
    merge_casts,
    remove_neutral,
    remove_single_input,
    remove_clip,
    remove_pad,
    remove_slice,
    remove_expand,
    remove_tile,
    remove_split,
    remove_resize,
    remove_repeated,
    remove_inverse,
    remove_reduction,
    remove_where,
    remove_flatten,
    remove_reshape,
    merge_concats,
    merge_common,
)
