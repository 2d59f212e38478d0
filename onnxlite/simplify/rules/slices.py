"""Slices and splits: a tensor taken apart, in as few nodes as possible."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, is_op, rank, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    axes_of,
    const_ints,
    ints,
    owned_by,
    replace_with,
    rule,
)
from onnxlite.simplify.rules.no_ops import slice_bounds


@rule("slice-squeeze-to-gather", "Squeeze")
def slice_to_gather(node: ir.Node, _context: Context) -> Outcome:
    """Squeeze(Slice(x, i:i+1 on axis a), a) -> Gather(x, i, axis a): the export of unbind.

    Declines when the index lies outside the axis, or the slice has other readers.
    """
    piece = owned_by(node.inputs[0], "Slice", like=node)
    axes = axes_of(node)
    data = piece.inputs[0] if piece is not None else None
    dims = rank(data)
    bounds = slice_bounds(piece) if piece is not None else None
    if data is None or dims is None or bounds is None or axes is None or len(axes) != 1:
        return None
    starts, ends, slice_axes, steps = bounds
    if len(starts) != 1 or steps != [1] or slice_axes[0] % dims != axes[0] % dims:
        return None
    axis, index = axes[0] % dims, starts[0]
    size = static_dim(data, axis)
    if ends[0] - index != 1 or size is None or not 0 <= index < size:
        return None
    indices = constant(np.asarray(index, np.int64), f"{node.name}_index")
    return replace_with(node, ir.node("Gather", [data, indices], {"axis": axis}))


@rule("split-squeeze-to-gather", "Split")
def split_to_gather(node: ir.Node, _context: Context) -> Outcome:
    """Split(x) into parts of size 1, each read by one Squeeze -> one Gather per part."""
    data, dims = node.inputs[0], rank(node.inputs[0])
    if data is None or dims is None:
        return None
    axis = int(attribute(node, "axis", 0)) % dims
    if static_dim(data, axis) != len(node.outputs):
        return None
    pairs: list[tuple[ir.Value, ir.Value]] = []
    nodes: list[ir.Node] = []
    for index, part in enumerate(node.outputs):
        uses = list(part.uses())
        if not uses and not part.is_graph_output():
            continue
        squeeze = uses[0][0] if len(uses) == 1 else None
        if squeeze is None or part.is_graph_output() or not is_op(squeeze, "Squeeze"):
            return None
        if squeeze.graph is not node.graph or [a % dims for a in axes_of(squeeze) or []] != [axis]:
            return None
        indices = constant(np.asarray(index, np.int64), f"{node.name}_index")
        gather = ir.node("Gather", [data, indices], {"axis": axis})
        nodes.append(gather)
        pairs.append((squeeze.outputs[0], gather.outputs[0]))
    return Replacement(tuple(nodes), tuple(pairs)) if pairs else None


@rule("slices-to-split", "Slice")
def slices_to_split(node: ir.Node, context: Context) -> Outcome:
    """Slices that cut x into adjoining parts along one axis -> one Split.

    Declines unless the parts cover the whole axis.
    """
    data = node.inputs[0]
    own = _range_of(node)
    if data is None or own is None or own[1] != 0:
        return None
    axis = own[0]
    size = static_dim(data, axis)
    siblings = [
        user for user, _ in data.uses() if is_op(user, "Slice") and user.graph is node.graph
    ]
    parts = {user: found for user in siblings if (found := _range_of(user)) and found[0] == axis}
    ordered = sorted(parts.items(), key=lambda item: item[1][1])
    if len(ordered) < 2 or ordered[0][0] is not node:
        return None
    if [r[1] for _, r in ordered] != [0, *(r[2] for _, r in ordered[:-1])]:
        return None
    if ordered[-1][1][2] != size or any(context.precedes(user) for user in parts):
        return None
    sizes = [r[2] - r[1] for _, r in ordered]
    if context.opset < 13:
        split = ir.node("Split", [data], {"axis": axis, "split": sizes}, num_outputs=len(sizes))
    else:
        inputs = [data, ints(sizes, f"{node.name}_sizes")]
        split = ir.node("Split", inputs, {"axis": axis}, num_outputs=len(sizes))
    pairs = zip((user.outputs[0] for user, _ in ordered), split.outputs, strict=True)
    return Replacement((split,), tuple(pairs))


def _range_of(node: ir.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a Slice with step 1 along one axis of known size."""
    dims, bounds = rank(node.inputs[0]), slice_bounds(node)
    if dims is None or bounds is None or any(len(part) != 1 for part in bounds):
        return None
    (start,), (end,), (axis,), (step,) = bounds
    size = static_dim(node.inputs[0], axis)
    if size is None or step != 1:
        return None
    start, end = (bound + size if bound < 0 else min(bound, size) for bound in (start, end))
    return (axis % dims, start, end) if 0 <= start < end else None


@rule("merge-slices", "Slice")
def merge_slices(node: ir.Node, context: Context) -> Outcome:
    """Slice(Slice(x, axis a), axis b) -> one Slice over both axes.

    Declines when both cut the same axis, for computed bounds, and below opset 10.
    """
    inner = owned_by(node.inputs[0], "Slice", like=node)
    outer_bounds = slice_bounds(node)
    inner_bounds = slice_bounds(inner) if inner is not None else None
    dims = rank(node.inputs[0])
    if inner is None or outer_bounds is None or inner_bounds is None or context.opset < 10:
        return None
    if dims is None or {a % dims for a in outer_bounds[2]} & {a % dims for a in inner_bounds[2]}:
        return None
    merged = [a + b for a, b in zip(inner_bounds, outer_bounds, strict=True)]
    names = ("starts", "ends", "axes", "steps")
    inputs = [ints(p, f"{node.name}_{n}") for p, n in zip(merged, names, strict=True)]
    return replace_with(node, ir.node("Slice", [inner.inputs[0], *inputs]))


@rule("merge-gathers", "Gather")
def merge_gathers(node: ir.Node, _context: Context) -> Outcome:
    """Gather(Unsqueeze(x, 0), 0) -> x: an element taken out of what was just wrapped."""
    wrapped = owned_by(node.inputs[0], "Unsqueeze", like=node)
    if wrapped is None or const_ints(node.inputs[1]) not in ([0], [-1]):
        return None
    axes = axes_of(wrapped)
    if rank(node.inputs[1]) != 0 or axes is None or len(axes) != 1:
        return None
    if axes[0] < 0 or axes[0] != int(attribute(node, "axis", 0)) or wrapped.inputs[0] is None:
        return None
    return Replacement((), ((node.outputs[0], wrapped.inputs[0]),))


RULES = (slice_to_gather, split_to_gather, slices_to_split, merge_slices, merge_gathers)
