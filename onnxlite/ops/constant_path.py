"""Weights that are computed from an initializer: where a slice of the result lies in it."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute, const_array, is_op
from onnxlite.ops.channels_layout import reshaped
from onnxlite.ops.tracker import Ids, Tracker, spread, tracked_axes


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
