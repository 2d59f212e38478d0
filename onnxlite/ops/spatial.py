"""Operators on feature maps: pooling, resizing, padding, depth to space."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_array
from onnxlite.ops.spec import MOVES, OpSpec, QuantRule, contrib_form
from onnxlite.ops.tracker import Tracker, blank, keep_axes, line_of, spread, tie_along, tracked_axes


def _resize_refusal(node: ir.Node) -> str | None:
    if attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation leaves the range of its input"
    return None


def _interpolates(node: ir.Node) -> bool:
    """ONNX Runtime's integer kernel cuts interpolated values off instead of rounding them."""
    return bool(attribute(node, "mode", "nearest") != "nearest")


_RESIZES = QuantRule(
    kind="layout", shared_scale=True, refuses=_resize_refusal, computes=_interpolates
)


def pool(node: ir.Node, t: Tracker) -> None:
    """Channels stay; what differs over the axes that are pooled must stay."""
    data = node.inputs[0]
    assert data is not None
    ids = keep_axes(t, t.ids(data), (0, 1), "a pool slides over its axis")
    for value in node.outputs:
        t.put(value, ids)


def resize(node: ir.Node, t: Tracker) -> None:
    """Axes of equal size pass; those that are resized must stay."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    before, after = t.shape(data), t.shape(out)
    same = tuple(axis for axis in range(len(before)) if before[axis] == after[axis])
    ids = keep_axes(t, t.ids(data), same, "its axis is resized")
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is not None and not t.is_constant(scales):
        t.pin(ids, "the scales of its resize are computed")
    axes = attribute(node, "axes")
    for axis in tracked_axes(ids):
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            if axes is None:
                t.recount(3, ids, axis, entry=axis)
            elif axis in [a % len(before) for a in axes]:
                t.pin(ids, "its size is given for some axes only")
    t.put(out, ids)


def depth_to_space(node: ir.Node, t: Tracker) -> None:
    """Channels become blocks of positions: all those that make one output channel are one."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids = keep_axes(t, t.ids(data), (1,), "its axis is divided into blocks")
    if not tracked_axes(ids):
        return
    block = int(attribute(node, "blocksize", 1)) ** 2
    if attribute(node, "mode", "DCR") == "DCR":
        line = tie_along(t, ids.reshape(block, -1), 0).reshape(-1)
    else:
        line = tie_along(t, ids.reshape(-1, block), 1).reshape(-1)
    t.put(out, spread(line, 1, 4))


def space_to_depth(node: ir.Node, t: Tracker) -> None:
    """Every channel becomes `blocksize**2` channels, the block's positions outermost."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids = keep_axes(t, t.ids(data), (1,), "its axis is divided into blocks")
    if tracked_axes(ids):
        block = int(attribute(node, "blocksize", 1)) ** 2
        t.put(out, spread(np.tile(ids.reshape(-1), block), 1, 4))


def pad(node: ir.Node, t: Tracker) -> None:
    """Padding on a tracked axis adds positions that may go, counted in the pads."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids, rank = t.ids(data), len(t.shape(out))
    for axis in tracked_axes(ids):
        amounts, where = _pads(node)
        if amounts is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
            t.pin(ids, "its padding is computed or for some axes only")
            ids = blank(rank)
            break
        before, after = int(amounts[axis]), int(amounts[axis + rank])
        if before == after == 0:
            continue
        if attribute(node, "mode", "constant") != "constant" or min(before, after) < 0:
            t.pin(ids, "its axis is padded with its own values, or cropped")
            ids = blank(rank)
            continue
        # Positions of padding are units of their own, so that they can be tied to others.
        line = line_of(t, ids, axis)
        front, back = t.mint(before), t.mint(after)
        t.recount(where, front, 0, entry=axis)
        t.recount(where, back, 0, entry=axis + rank)
        ids = spread(np.concatenate([front, line, back]), axis, rank)
    t.put(out, ids)


def _pads(node: ir.Node) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]] | None, int | str]:
    if "pads" in node.attributes:
        return np.asarray(attribute(node, "pads")), "pads"
    return const_array(node.inputs[1]), 1


_AVERAGES = {
    name: QuantRule(kind="integer", integer_form=contrib_form(f"QLinear{name}"))
    for name in ("AveragePool", "GlobalAveragePool")
}

ROWS = (
    OpSpec(op_type="MaxPool", quant=MOVES, linear=True, channels=pool),
    OpSpec(op_type="AveragePool", quant=_AVERAGES["AveragePool"], linear=True, channels=pool),
    OpSpec(
        op_type="GlobalAveragePool",
        quant=_AVERAGES["GlobalAveragePool"],
        linear=True,
        scores="keeps",
        channels=pool,
    ),
    *(OpSpec(op_type=name, channels=pool) for name in ("LpPool", "GlobalMaxPool", "GlobalLpPool")),
    OpSpec(
        op_type="Resize",
        quant=_RESIZES,
        linear=True,
        scores="keeps",
        channels=resize,
        shape_ports=(1, 2, 3),
    ),
    OpSpec(op_type="Upsample", channels=resize, shape_ports=(1,)),
    OpSpec(op_type="DepthToSpace", channels=depth_to_space),
    OpSpec(op_type="SpaceToDepth", channels=space_to_depth),
    OpSpec(op_type="Pad", channels=pad, shape_ports=(1,)),
)
