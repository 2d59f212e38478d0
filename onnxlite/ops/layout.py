"""Operators that move values; their channel rules are the same NumPy operation on the ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_array, is_op
from onnxlite.ops.spec import (
    CONTRIB_DOMAIN,
    MOVES,
    IntegerForm,
    OpSpec,
    Quantized,
    QuantRule,
    RowUse,
)
from onnxlite.ops.tracker import Ids, Tracker, aligned, blank, spread, tie_along, tracked_axes


def reshape(node: ir.Node, t: Tracker) -> None:
    """Reshaped ids; target sizes of tracked axes are counted again."""
    ids = _reshaped(node, t)
    for axis in tracked_axes(ids):
        if "shape" in node.attributes:
            t.recount("shape", ids, axis, entry=axis)
        else:
            t.recount(1, ids, axis, entry=axis)


def flatten(node: ir.Node, t: Tracker) -> None:
    """A Reshape whose target follows from the input: Flatten, Squeeze, Unsqueeze."""
    _reshaped(node, t)


def _reshaped(node: ir.Node, t: Tracker) -> Ids:
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids = t.ids(data)
    if not tracked_axes(ids):
        return blank(len(t.shape(out)))
    if prod(t.shape(data)) != prod(t.shape(out)) or 0 in t.shape(data):
        t.pin(ids, "its shape could not be told")
        return blank(len(t.shape(out)))
    result = reshaped(ids, t.shape(data), t.shape(out))
    t.put(out, result)
    return result


def reshaped(ids: Ids, before: Sequence[int], after: Sequence[int]) -> Ids:
    """`ids` of a value of shape `before` for shape `after`; axes no larger than needed.

    Axes are taken in blocks of equal product, so that only what is really merged or split
    with a tracked axis is written out.
    """
    source: list[int] = []
    target: list[int] = []
    for left, right in _blocks(before, after):
        tracked = any(ids.shape[axis] > 1 for axis in left)
        source += [before[axis] if tracked else 1 for axis in left]
        target += [after[axis] if tracked else 1 for axis in right]
    grid = np.broadcast_to(ids, source).reshape(target)
    for axis in tracked_axes(grid):
        first = grid.take([0], axis)
        if (grid == first).all():
            grid = first
    return grid


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of axes on both sides with equal products, as short as possible."""
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        p = q = 1
        if i < len(before):
            left.append(i)
            p, i = before[i], i + 1
        if j < len(after):
            right.append(j)
            q, j = after[j], j + 1
        while p != q:
            if p < q:
                left.append(i)
                p, i = p * before[i], i + 1
            else:
                right.append(j)
                q, j = q * after[j], j + 1
        yield left, right


def transpose(node: ir.Node, t: Tracker) -> None:
    """Transposed ids."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    t.put(out, np.transpose(t.ids(data), attribute(node, "perm")))


def expand(node: ir.Node, t: Tracker) -> None:
    """Repeated axes stay of size 1; the target's tracked sizes are counted again."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = len(t.shape(out))
    ids = aligned(t.ids(data), rank)
    target = node.inputs[1]
    assert target is not None
    entries = t.shape(target)[0]
    for axis in tracked_axes(ids):
        entry = axis - (rank - entries)
        if entry >= 0 and not _is_one(target, entry):
            t.recount(1, ids, axis, entry=entry)
    t.put(out, ids)


def _is_one(target: ir.Value, entry: int) -> bool:
    array = const_array(target)
    return array is not None and int(array[entry]) == 1


def tile(node: ir.Node, t: Tracker) -> None:
    """Tiled ids."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids, before, after = t.ids(data), t.shape(data), t.shape(out)
    if _is_computed(node, 1):
        t.pin(ids, "how often it is repeated is computed")
    repeats = [
        after[axis] // before[axis] if ids.shape[axis] > 1 else 1 for axis in range(len(before))
    ]
    t.put(out, np.tile(ids, repeats))


def concat(node: ir.Node, t: Tracker) -> None:
    """Concatenated ids; along other axes the operands' units are one."""
    out = node.outputs[0]
    rank = len(t.shape(out))
    axis = attribute(node, "axis", 1) % rank
    values = [value for value in node.inputs if value is not None]
    parts = [t.ids(value) for value in values]
    others = sorted({a for part in parts for a in tracked_axes(part)} - {axis})
    along = any(part.shape[axis] > 1 for part in parts)
    for other in others:
        lines = [part for part in parts if part.shape[other] > 1]
        for port, value in enumerate(node.inputs):
            if value is None or t.ids(value).shape[other] > 1:
                continue
            if t.is_constant(value) and not along and len(others) == 1:
                t.bind(port, other, lines[0].reshape(-1))
            else:
                for line in lines:
                    t.pin(line, f"it is joined to values that have no units ({value.name!r})")
        for line in lines[1:]:
            if not along:
                t.tie(lines[0], line)
    if not along:
        t.put(out, max(parts, key=lambda part: part.size))
        return
    shape = [max(part.shape[a] for part in parts) for a in range(rank)]
    full = [
        np.broadcast_to(part, [t.shape(v)[a] if a == axis else shape[a] for a in range(rank)])
        for v, part in zip(values, parts, strict=True)
    ]
    t.put(out, np.concatenate(full, axis))


def split(node: ir.Node, t: Tracker) -> None:
    """Parts of the ids; given sizes are counted again, equal parts stay equal."""
    data = node.inputs[0]
    assert data is not None
    ids = t.ids(data)
    axis = attribute(node, "axis", 0) % ids.ndim
    sizes = [t.shape(value)[axis] for value in node.outputs]
    if ids.shape[axis] == 1:
        for value in node.outputs:
            t.put(value, ids)
        return
    parts = np.split(ids, np.cumsum(sizes)[:-1], axis)
    given: int | str | None = "split" if "split" in node.attributes else None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = 1
    if given is None and len(set(sizes)) > 1:
        t.pin(ids, "it is split into parts of unequal size")
    for index, (value, part) in enumerate(zip(node.outputs, parts, strict=True)):
        if given is not None:
            t.recount(given, part, axis, entry=index)
        elif len(set(sizes)) == 1:
            t.tie(parts[0], part)
        t.put(value, part)


def slice_(node: ir.Node, t: Tracker) -> None:
    """A slice of the ids; its bounds count what is kept before them."""
    data, out = node.inputs[0], node.outputs[0]
    assert data is not None
    ids, before, after = t.ids(data), t.shape(data), t.shape(out)
    starts, ends, axes, steps = (
        _numbers(node, port, name)
        for port, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    )
    entries = {
        int(a) % len(before): e for e, a in enumerate(range(len(before)) if axes is None else axes)
    }
    for axis in tracked_axes(ids):
        entry = entries.get(axis)
        known = starts is not None and ends is not None and not _is_computed(node, 3)
        if known and (entry is None or entry >= len(starts or ())):
            continue
        step = 1 if steps is None or entry is None else steps[entry]
        if not known or step != 1 or _is_computed(node, 4):
            t.pin(ids, "it is sliced with a step or with computed bounds")
            ids = ids.take([0], axis) if before[axis] != after[axis] or step != 1 else ids
            continue
        assert starts is not None
        assert ends is not None
        assert entry is not None
        start, end, _ = slice(starts[entry], ends[entry]).indices(before[axis])
        for port, name, bound in ((1, "starts", start), (2, "ends", end)):
            if 0 < bound < before[axis]:
                where = name if name in node.attributes else port
                t.recount(where, ids.take(range(bound), axis), axis, entry=entry, bound=True)
        ids = ids.take(range(start, end), axis)
    t.put(out, ids)


def _numbers(node: ir.Node, port: int, name: str) -> list[int] | None:
    """Numbers that were an attribute before they became an input; None if absent or computed."""
    if name in node.attributes:
        return [int(x) for x in attribute(node, name)]
    array = const_array(node.inputs[port]) if port < len(node.inputs) else None
    return None if array is None else [int(x) for x in array.reshape(-1)]


def _is_computed(node: ir.Node, port: int) -> bool:
    value = node.inputs[port] if port < len(node.inputs) else None
    return value is not None and const_array(value) is None


def gather(node: ir.Node, t: Tracker) -> None:
    """Constant indices pick ids; a table of embeddings mints its hidden axis."""
    data, indices, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None
    assert indices is not None
    t.pin(t.ids(indices), "it is an index")
    shape, count = t.shape(data), len(t.shape(indices))
    axis = attribute(node, "axis", 0) % len(shape)
    if t.is_constant(data):
        if len(shape) == 2 and axis == 0:
            made = t.mint(shape[1])
            t.bind(0, 1, made)
            t.put(out, spread(made, count, count + 1))
        return
    ids = t.ids(data)
    if len(tracked_axes(ids)) > 1:
        # Places of a grid, as in x.reshape(B, N, 3, heads, dim)[:, :, 0]: heads stay units.
        ids = tie_along(t, ids, axis)
    if ids.shape[axis] == 1:
        t.put(out, ids.reshape(ids.shape[:axis] + (1,) * count + ids.shape[axis + 1 :]))
        return
    picked = const_array(indices)
    if picked is None or picked.ndim != 1:
        t.pin(ids, "single positions of its axis are picked, or by computed indices")
        return
    t.reindex(1, ids.reshape(-1))
    t.put(out, ids.take(picked.astype(np.int64), axis))


def _qlinear_concat(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    return output.parameters + [value for operand in inputs for value in operand.three]


def _gather_rows(node: ir.Node, port: int) -> RowUse | None:
    return RowUse("lookup", 0) if port == 0 and attribute(node, "axis", 0) == 0 else None


def _gather_axes(node: ir.Node) -> tuple[int, ...]:
    return (int(attribute(node, "axis", 0)),)


def _slice_axes(node: ir.Node) -> tuple[int, ...] | None:
    axes = const_array(node.inputs[3]) if len(node.inputs) > 3 else None
    return None if axes is None else tuple(int(axis) for axis in axes.reshape(-1))


def _transpose_rows(node: ir.Node, _port: int) -> RowUse | None:
    """A matrix that is turned for products, and for nothing else."""
    output = node.outputs[0]
    uses = list(output.uses())
    turned = attribute(node, "perm", [1, 0]) == [1, 0] and not output.is_graph_output()
    if not turned or not uses or not all(is_op(u.node, "MatMul") and u.idx == 1 for u in uses):
        return None
    return RowUse("transposed", 0, products=tuple(use.node for use in uses))


ROWS = (
    OpSpec(
        op_type="Reshape",
        quant=MOVES,
        linear=True,
        moves_only=True,
        scores="keeps",
        channels=reshape,
        shape_ports=(1,),
    ),
    OpSpec(
        op_type="Flatten",
        quant=MOVES,
        linear=True,
        moves_only=True,
        scores="keeps",
        channels=flatten,
    ),
    OpSpec(
        op_type="Squeeze",
        quant=MOVES,
        linear=True,
        moves_only=True,
        scores="keeps",
        channels=flatten,
    ),
    OpSpec(op_type="Unsqueeze", quant=MOVES, linear=True, moves_only=True, channels=flatten),
    OpSpec(
        op_type="Transpose",
        quant=MOVES,
        linear=True,
        moves_only=True,
        rows=_transpose_rows,
        channels=transpose,
    ),
    OpSpec(
        op_type="Slice",
        quant=MOVES,
        linear=True,
        table_axes=_slice_axes,
        channels=slice_,
        shape_ports=(1, 2),
    ),
    OpSpec(op_type="Split", quant=MOVES, linear=True, channels=split, shape_ports=(1,)),
    OpSpec(op_type="Expand", quant=MOVES, linear=True, channels=expand, shape_ports=(1,)),
    OpSpec(op_type="Tile", quant=MOVES, linear=True, channels=tile, shape_ports=(1,)),
    # It also moves weights: an embedding table.
    OpSpec(
        op_type="Gather",
        quant=MOVES,
        weights=(0,),
        linear=True,
        rows=_gather_rows,
        table_axes=_gather_axes,
        channels=gather,
    ),
    OpSpec(
        op_type="Concat",
        quant=QuantRule(
            kind="integer",
            inputs=None,
            shared_scale=True,
            integer_form=IntegerForm(
                op_type="QLinearConcat", domain=CONTRIB_DOMAIN, arrange=_qlinear_concat
            ),
        ),
        linear=True,
        channels=concat,
    ),
)
