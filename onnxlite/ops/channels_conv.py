"""Channel rules of convolutions and of what works on the maps that they make."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_array
from onnxlite.ops.tracker import (
    ChannelRule,
    Ids,
    Tracker,
    blank,
    keep_axes,
    line_of,
    spread,
    tie_along,
    tracked_axes,
)


def conv(node: ir.Node, t: Tracker) -> None:
    """Input units are consumed by slices of `W[out, in/group, *kernel]`, output units minted.

    Grouped: every group loses equally many; the j-th outputs of all go together. Depthwise
    (one input channel a group): an output channel belongs to the unit of its input, `group`
    counts.
    """
    _convolution(node, t, out_axis=0, in_axis=1)


def conv_transpose(node: ir.Node, t: Tracker) -> None:
    """As `conv`, with `W[in, out/group, *kernel]`."""
    _convolution(node, t, out_axis=1, in_axis=0)


def _convolution(node: ir.Node, t: Tracker, *, out_axis: int, in_axis: int) -> None:
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None
    assert weight is not None
    rank = len(t.shape(data))
    ids = keep_axes(t, t.ids(data), (1,), "a convolution slides over its axis")
    if not t.is_constant(weight):
        t.pin(ids, "the convolution's weight is computed")
        t.pin(t.ids(weight), "it is a convolution's weight")
        return
    group = int(attribute(node, "group", 1))
    channels, outputs = t.shape(data)[1], t.shape(out)[1]
    tracked = bool(tracked_axes(ids))
    if group > 1 and group == channels:
        if not tracked:
            return
        line = ids.reshape(-1)
        made = np.repeat(line, outputs // group)
        t.recount("group", line, 0)
        # Of a depthwise weight the axis with one slice per group is axis 0, either way.
        t.bind(1, 0, made if out_axis == 0 else line)
    else:
        if tracked:
            line = ids.reshape(-1) if group == 1 else _balanced_groups(t, ids.reshape(group, -1))
            t.bind(1, in_axis, line.reshape(-1) if in_axis == 0 else line)
        made = _tied_groups(t, t.mint(outputs), group)
        t.bind(1, out_axis, made if out_axis == 0 else made[: outputs // group])
    t.bind(2, 0, made)
    t.put(out, spread(made, 1, rank))


def _tied_groups(t: Tracker, line: Ids, group: int) -> Ids:
    if group == 1:
        return line
    return np.tile(tie_along(t, line.reshape(group, -1), 0).reshape(-1), group)


def _balanced_groups(t: Tracker, lines: Ids) -> Ids:
    """Tie every position of the first group to one of each other group, as little as needed.

    Positions of one unit are paired first, then those of units with as many positions: a
    channel shuffle before puts several positions of a unit in one group.
    """
    for other in range(1, len(lines)):
        first, second = _paired(t.roots(lines[0]), t.roots(lines[other]))
        t.tie(lines[0][first], lines[other][second])
    return lines


def _paired(a: Ids, b: Ids) -> tuple[list[int], list[int]]:
    """Two orders of positions in which `a` and `b` agree where they can."""
    free: dict[int, list[int]] = {}
    for place, unit in enumerate(b.tolist()):
        free.setdefault(unit, []).append(place)
    left, right, rest = [], [], []
    for place, unit in enumerate(a.tolist()):
        if free.get(unit):
            left.append(place)
            right.append(free[unit].pop(0))
        else:
            rest.append(place)
    return left + _by_count(a, rest), right + _by_count(
        b, sorted(place for places in free.values() for place in places)
    )


def _by_count(line: Ids, places: list[int]) -> list[int]:
    """Places of the units that have most of them first; those of a unit stay together."""
    units = line[places].tolist()
    return [
        place
        for place, unit in sorted(
            zip(places, units, strict=True),
            key=lambda pair: (-units.count(pair[1]), units.index(pair[1])),
        )
    ]


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


_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")

RULES: Mapping[str, ChannelRule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    **dict.fromkeys(_POOLS, pool),
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Pad": pad,
}
