"""Constants and sizes that a graph computes: where their slices and entries come from.

A slice of a weight that is computed from an initializer is bound in that initializer. A
vector that holds the size of a tracked axis follows by itself when the axis shrinks, so it
may be the target of a Reshape or Expand; arithmetic with it pins the axis.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute, const_array, is_op
from onnxlite.ops.layout import reshaped
from onnxlite.ops.spec import OpSpec, ShapeOf
from onnxlite.ops.tracker import Ids, Sizes, Tracker, spread, tracked_axes


def bind_behind(node: ir.Node, t: Tracker, axis: int, line: Ids, fill: float | None) -> None:
    """Bind the constant inputs of `node` behind the slices of its output along `axis`.

    Transpose, Reshape and its kin, casts and QuantizeLinear/DequantizeLinear are passed;
    what comes behind any other operator pins `line`.
    """
    value, out = node.inputs[0] if node.inputs else None, node.outputs[0]
    if value is None:
        t.pin(line, f"its weight comes from a {node.op_type} node")
    elif is_op(node, "Identity", "Cast"):
        t.bind(0, axis, line, fill=fill)
    elif line.ndim > 1 and not is_op(node, "QuantizeLinear", "DequantizeLinear"):
        t.pin(line, f"its weight in groups is moved by {node.op_type} node {node.name!r}")
    elif is_op(node, "Transpose"):
        perm = attribute(node, "perm", list(range(len(t.shape(value))))[::-1])
        t.bind(0, perm[axis], line, fill=fill)
    elif is_op(node, "Squeeze", "Unsqueeze", "Reshape", "Flatten"):
        ids = spread(line, axis, len(t.shape(out)))
        before = reshaped(ids, t.shape(out), t.shape(value))
        axes = tracked_axes(before)
        if len(axes) != 1:
            t.pin(line, f"its weight is reshaped along its axis by {node.name!r}")
            return
        t.bind(0, axes[0], before.reshape(-1), fill=fill)
        if node.op_type == "Reshape":
            t.recount(1, ids, axis, entry=axis)
    elif is_op(node, "QuantizeLinear", "DequantizeLinear"):
        _bind_quantized(node, t, axis, line, fill)
    else:
        t.pin(line, f"its weight is computed by {node.op_type} node {node.name!r}")


def _bind_quantized(node: ir.Node, t: Tracker, axis: int, line: Ids, fill: float | None) -> None:
    value, scale = node.inputs[0], node.inputs[1]
    assert value is not None
    assert scale is not None
    zero = const_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(t.shape(scale)) > 1:
        t.pin(line, "its weight is quantized in blocks")
        return
    if node.op_type == "DequantizeLinear" and fill is not None:
        points = {0.0} if zero is None else {float(point) for point in zero.reshape(-1)}
        fill = points.pop() if len(points) == 1 else None
    elif fill is not None:  # what is quantized to the zero point
        fill = 0.0
    t.bind(0, axis, line, fill=fill)
    per_channel = len(t.shape(scale)) == 1 and t.shape(scale)[0] > 1
    if per_channel and attribute(node, "axis", 1) % len(t.shape(value)) == axis:
        t.bind(1, 0, line, fill=None)
        t.bind(2, 0, line, fill=None)


_SAME = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze"})


_TARGETS = frozenset({("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0)})


def shape(node: ir.Node, t: Tracker) -> None:
    """The sizes of the tracked axes."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    sizes: Sizes = [(ids, axis) if ids.shape[axis] > 1 else None for axis in range(ids.ndim)]
    start, end = attribute(node, "start", 0), attribute(node, "end", ids.ndim)
    t.put_sizes(node.outputs[0], sizes[start:end])


def size(node: ir.Node, t: Tracker) -> None:
    """The number of all elements: an arithmetic with every axis."""
    data = node.inputs[0]
    assert data is not None
    if tracked_axes(t.ids(data)):
        t.pin(t.ids(data), "its number of elements is computed")


def carry_sizes(node: ir.Node, t: Tracker) -> None:
    """Pass on sizes that `node` moves; pin what it computes with."""
    for port, value in enumerate(node.inputs):
        sizes = None if value is None else t.sizes(value)
        if sizes is None or not any(sizes) or (node.op_type, port) in _TARGETS:
            continue
        moved = _moved(node, t, port, sizes)
        if moved is None:
            for entry in sizes:
                if entry is not None:
                    t.pin(entry[0], "its size is computed with")
        else:
            t.put_sizes(node.outputs[0], moved)


def _moved(node: ir.Node, t: Tracker, port: int, sizes: Sizes) -> Sizes | None:
    """The entries of the output, None for an operator that does not just move them."""
    if node.op_type in _SAME and port == 0:
        return sizes
    if node.op_type == "Gather" and port == 0:
        picked = const_array(node.inputs[1])
        return None if picked is None else [sizes[int(i)] for i in picked.reshape(-1)]
    if node.op_type == "Slice" and port == 0 and "starts" not in node.attributes:
        bounds = [const_array(value) for value in node.inputs[1:3]]
        steps = const_array(node.inputs[4]) if len(node.inputs) > 4 else None
        if bounds[0] is None or bounds[1] is None:
            return None
        step = None if steps is None else int(steps[0])
        return sizes[int(bounds[0][0]) : int(bounds[1][0]) : step]
    if node.op_type == "Concat":
        joined: Sizes = []
        for value in node.inputs:
            assert value is not None
            joined += t.sizes(value) or [None] * t.shape(value)[0]
        return joined
    return None


def entry_source(node: ir.Node, entry: int, shape_of: ShapeOf) -> tuple[int, int] | None:
    """Find the port and the entry there that an entry of an integer vector comes from.

    Returns:
        None if `node` does more than move entries.
    """
    if is_op(node, *_SAME):
        return 0, entry
    for port, part in enumerate(node.inputs if is_op(node, "Concat") else ()):
        shape = shape_of(part)
        if shape is None or len(shape) != 1:
            return None
        if entry < shape[0]:
            return port, entry
        entry -= shape[0]
    return None


#: Operators that make a shape out of values, and their ports that decide it.
_MADE_SHAPES = {
    "CenterCropPad": (1,),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "Loop": (0, 1),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "NonZero": (0,),
    "OneHot": (1,),
    "Range": (0, 1, 2),
    "Unique": (0,),
}

ROWS = (
    OpSpec(op_type="Shape", channels=shape, reads_shape=True),
    OpSpec(op_type="Size", channels=size, reads_shape=True),
    *(OpSpec(op_type=name, shape_ports=ports) for name, ports in _MADE_SHAPES.items()),
)
