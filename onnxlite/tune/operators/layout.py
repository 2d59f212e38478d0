"""Operators that move values without computing with them."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.operators.call import Call, Operators

_FAR = 1 << 62


def _reshape(call: Call) -> Tensor:
    sizes = call.ints("shape", 1) or []
    if not call.attr("allowzero", 0):
        sizes = [call.x.shape[axis] if n == 0 else n for axis, n in enumerate(sizes)]
    return call.x.reshape(sizes)


def _flatten(call: Call) -> Tensor:
    axis = call.attr("axis", 1)
    axis += call.x.dim() if axis < 0 else 0
    return call.x.reshape(prod(call.x.shape[:axis]), prod(call.x.shape[axis:]))


def _transpose(call: Call) -> Tensor:
    return call.x.permute(call.attr("perm") or list(reversed(range(call.x.dim()))))


def _concat(call: Call) -> Tensor:
    return torch.cat(call.given(), call.attr("axis", 1))


def _split(call: Call) -> tuple[Tensor, ...]:
    axis, sizes = call.attr("axis", 0), call.ints("split", 1)
    if sizes is None:
        count = call.attr("num_outputs", len(call.node.outputs))
        each = -(-call.x.shape[axis] // count)
        sizes = [each] * (count - 1) + [call.x.shape[axis] - each * (count - 1)]
    return tuple(torch.split(call.x, sizes, axis))


def _slice(call: Call) -> Tensor:
    x = call.x
    starts, ends = call.ints("starts", 1) or [], call.ints("ends", 2) or []
    axes = call.ints("axes", 3) or list(range(len(starts)))
    steps = call.ints("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= x.dim()
        # Python's slices know the same rules, but for numbers that stand for "to the end".
        places = range(x.shape[axis])[slice(start, end if end > -_FAR else None, step)]
        if step > 0:
            x = x[(*(slice(None),) * axis, slice(places.start, places.stop, step))]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _gather(call: Call) -> Tensor:
    x, index, axis = call.x, call.inputs[1].long(), call.attr("axis", 0)
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    if index.dim() == 0:
        return x.select(axis, int(index))
    out = x.index_select(axis, index.reshape(-1))
    return out.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(call: Call) -> Tensor:
    axis, index = call.attr("axis", 0), call.inputs[1].long()
    return call.x.gather(axis, torch.where(index < 0, index + call.x.shape[axis], index))


def _gather_nd(call: Call) -> Tensor:
    if call.attr("batch_dims", 0):
        call.refuse("batch_dims")
    return call.x[tuple(call.inputs[1].long().movedim(-1, 0))]


def _scatter_elements(call: Call) -> Tensor:
    axis, index, updates = call.attr("axis", 0), call.inputs[1].long(), call.inputs[2]
    index = torch.where(index < 0, index + call.x.shape[axis], index)
    kind = call.attr("reduction", "none")
    if kind == "none":
        return call.x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
    return call.x.scatter_reduce(axis, index, updates, names[kind])


def _scatter_nd(call: Call) -> Tensor:
    kind = call.attr("reduction", "none")
    if kind not in ("none", "add"):
        call.refuse(f"reduction {kind!r}")
    index = tuple(call.inputs[1].long().movedim(-1, 0))
    return call.x.index_put(index, call.inputs[2], accumulate=kind == "add")


def _squeeze(call: Call) -> Tensor:
    axes = call.ints("axes", 1)
    return call.x.squeeze() if axes is None else call.x.squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.x, call.ints("axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _expand(call: Call) -> Tensor:
    shape = torch.broadcast_shapes(call.x.shape, tuple(call.ints("shape", 1) or []))
    return call.x.expand(shape)


def _tile(call: Call) -> Tensor:
    return call.x.repeat(call.ints("repeats", 1))


def _pad(call: Call) -> Tensor:
    x, mode = call.x, call.attr("mode", "constant")
    pads = call.ints("pads", 1) or []
    axes = call.ints("axes", 3)
    axes = list(range(x.dim())) if axes is None else [a % x.dim() for a in axes]
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    if mode == "constant":
        fill = call.get(2) if call.opset >= 11 else None
        value = call.attr("value", 0.0) if fill is None else fill.item()
        widths: list[int] = []
        for axis in reversed(range(x.dim())):
            widths += [before.get(axis, 0), after.get(axis, 0)]
        return F.pad(x, widths, value=value)
    for axis in axes:
        size = x.shape[axis]
        places = torch.arange(-before[axis], size + after[axis])
        if mode == "edge":
            places = places.clamp(0, size - 1)
        elif mode == "reflect":
            period = max(2 * (size - 1), 1)
            places = places.remainder(period)
            places = torch.minimum(places, period - places) if size > 1 else places * 0
        elif mode == "wrap":
            places = places.remainder(size)
        else:
            call.refuse(f"mode {mode!r}")
        x = x.index_select(axis, places)
    return x


def _depth_to_space(call: Call) -> Tensor:
    n, c, h, w = call.x.shape
    b = call.attr("blocksize")
    if call.attr("mode", "DCR") == "DCR":
        parts = call.x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = call.x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(call: Call) -> Tensor:
    n, c, h, w = call.x.shape
    b = call.attr("blocksize")
    parts = call.x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if call.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    parts = parts.permute(order)
    return parts.reshape(n, c * b * b, h // b, w // b)


def _shape(call: Call) -> Tensor:
    sizes = list(call.x.shape)[call.attr("start", 0) : call.attr("end")]
    return torch.tensor(sizes, dtype=torch.int64)


def _size(call: Call) -> Tensor:
    return torch.tensor(call.x.numel(), dtype=torch.int64)


def _range(call: Call) -> Tensor:
    start, limit, step = (value.item() for value in call.inputs)
    return torch.arange(start, limit, step, dtype=call.x.dtype)


def _one_hot(call: Call) -> Tensor:
    index, depth, values = call.inputs
    count = int(depth)
    places = torch.arange(count)
    hit = index.long().remainder(count)[..., None] == places
    hit = hit & ((index >= -count) & (index < count))[..., None]
    return torch.where(hit, values[1], values[0]).movedim(-1, call.attr("axis", -1))


def _non_zero(call: Call) -> Tensor:
    return call.x.nonzero().T.contiguous()


def _trilu(call: Call) -> Tensor:
    k = call.get(1)
    offset = 0 if k is None else int(k)
    return torch.triu(call.x, offset) if call.attr("upper", 1) else torch.tril(call.x, offset)


OPERATORS: Operators = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
