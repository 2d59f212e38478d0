"""Channel rules of sizes computed at run time: Shape, and what picks and joins its entries.

A vector that holds the size of a tracked axis follows by itself when the axis shrinks. So
it may be the target of a Reshape or Expand; arithmetic with it pins the axis.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute, const_array
from onnxlite.ops.tracker import Sizes, Tracker, tracked_axes

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


RULES = {"Shape": shape, "Size": size}
