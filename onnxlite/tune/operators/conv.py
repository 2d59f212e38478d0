"""Convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.operators.call import Call, Operators

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Window:
    """Kernel, strides, dilations and pads of a node over the last axes of its input."""

    def __init__(self, call: Call, kernel: Sequence[int]) -> None:
        self.kernel = tuple(kernel)
        self.rank = len(kernel)
        if self.rank not in _CONV:
            call.refuse(f"{self.rank} spatial axes")
        ones = [1] * self.rank
        self.strides = tuple(call.attr("strides", ones))
        self.dilations = tuple(call.attr("dilations", ones))
        sizes = tuple(call.x.shape[2:])
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.before, self.after = _pads(call, sizes, reach, self.strides)
        # With ceil_mode the last window may stick out; none starts behind the padded input.
        self.extra = [0] * self.rank
        if call.attr("ceil_mode", 0) and call.attr("auto_pad", "NOTSET") in ("NOTSET", ""):
            for axis in range(self.rank):
                room = sizes[axis] + self.before[axis] + self.after[axis] - reach[axis]
                stride = self.strides[axis]
                count = ceil(room / stride) + 1
                if (count - 1) * stride >= sizes[axis] + self.before[axis]:
                    count -= 1
                self.extra[axis] = max(0, (count - 1) * stride - room)

    def pad(self, x: Tensor, value: float, *, extra: bool = True) -> Tensor:
        """Pad the spatial axes of `x`, also by what ceil_mode adds."""
        widths: list[int] = []
        for axis in reversed(range(self.rank)):
            widths += [self.before[axis], self.after[axis] + (self.extra[axis] if extra else 0)]
        return F.pad(x, widths, value=value) if any(widths) else x


def _pads(
    call: Call, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode = call.attr("auto_pad", "NOTSET")
    rank = len(sizes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (ceil(n / s) - 1) * s + k - n)
            for n, k, s in zip(sizes, reach, strides, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return (less, more) if mode == "SAME_UPPER" else (more, less)
    pads = [0] * (2 * rank) if mode == "VALID" else list(call.attr("pads", [0] * (2 * rank)))
    return pads[:rank], pads[rank:]


def _conv(call: Call) -> Tensor:
    weight, bias = call.inputs[1], call.get(2)
    window = _Window(call, weight.shape[2:])
    x, padding = call.x, tuple(window.before)
    if window.before != window.after:
        x, padding = window.pad(x, 0.0), (0,) * window.rank
    return _CONV[window.rank](
        x, weight, bias, window.strides, padding, window.dilations, call.attr("group", 1)
    )


def _conv_transpose(call: Call) -> Tensor:
    weight, bias = call.inputs[1], call.get(2)
    rank = weight.dim() - 2
    if rank not in _CONV_TRANSPOSE:
        call.refuse(f"{rank} spatial axes")
    ones, zeros = [1] * rank, [0] * rank
    strides, dilations = call.attr("strides", ones), call.attr("dilations", ones)
    more = call.attr("output_padding", zeros)
    # The whole result first; pads then cut it, which holds for pads of any form.
    full = _CONV_TRANSPOSE[rank](
        call.x, weight, None, strides, 0, 0, call.attr("group", 1), dilations
    )
    widths: list[int] = []
    for axis in reversed(range(rank)):
        widths += [0, more[axis]]
    full = F.pad(full, widths) if any(widths) else full
    size = list(full.shape[2:])
    wanted, mode = call.attr("output_shape"), call.attr("auto_pad", "NOTSET")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(call.x.shape[2:], strides, strict=True)]
    if wanted is not None:
        total = [n - w for n, w in zip(size, wanted[-rank:], strict=True)]
        if min(total) < 0:
            call.refuse(f"output_shape {wanted} beyond what the windows cover")
        # As ONNX Runtime has it: of an odd number the larger half goes to the end for SAME_UPPER.
        half = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        begin, end = half, [n - t + h for n, t, h in zip(size, total, half, strict=True)]
    else:
        pads = [0] * (2 * rank) if mode == "VALID" else call.attr("pads", [0] * (2 * rank))
        begin, end = pads[:rank], [n - p for n, p in zip(size, pads[rank:], strict=True)]
    out = full[(slice(None), slice(None), *map(slice, begin, end))]
    return out if bias is None else out + bias.reshape(1, -1, *ones)


def _max_pool(call: Call) -> Tensor:
    if len(call.node.outputs) > 1:
        call.refuse("the output of indices")
    window = _Window(call, call.attr("kernel_shape"))
    x = call.x if call.x.is_floating_point() else call.x.float()
    padded = window.pad(x, -torch.inf)
    out = _MAX_POOL[window.rank](
        padded, window.kernel, window.strides, padding=0, dilation=window.dilations
    )
    return out.to(call.x.dtype)


def _average_pool(call: Call) -> Tensor:
    window = _Window(call, call.attr("kernel_shape"))
    padded = window.pad(call.x, 0.0)
    total = _window_mean(window, padded)
    if padded is call.x:
        return total
    counted = torch.ones_like(call.x[:1, :1])
    if call.attr("count_include_pad", 0):
        counted = window.pad(counted, 1.0, extra=False)
        widths: list[int] = []
        for axis in reversed(range(window.rank)):
            widths += [0, window.extra[axis]]
        counted = F.pad(counted, widths)
    else:
        counted = window.pad(counted, 0.0)
    return total / _window_mean(window, counted)


def _window_mean(window: _Window, x: Tensor) -> Tensor:
    if set(window.dilations) == {1}:
        return _AVG_POOL[window.rank](x, window.kernel, window.strides)
    ones = torch.full((1, 1, *window.kernel), 1 / prod(window.kernel), dtype=x.dtype)
    flat = x.reshape(-1, 1, *x.shape[2:])
    out = _CONV[window.rank](flat, ones, None, window.strides, 0, window.dilations)
    return out.reshape(*x.shape[:2], *out.shape[2:])


def _lp_pool(call: Call) -> Tensor:
    window = _Window(call, call.attr("kernel_shape"))
    power = call.attr("p", 2)
    mean = _window_mean(window, window.pad(call.x.abs() ** power, 0.0))
    return (mean * prod(window.kernel)) ** (1 / power)


def _global_average_pool(call: Call) -> Tensor:
    return call.x.mean(dim=tuple(range(2, call.x.dim())), keepdim=True)


def _global_max_pool(call: Call) -> Tensor:
    return call.x.amax(dim=tuple(range(2, call.x.dim())), keepdim=True)


def _resize(call: Call) -> Tensor:
    """Resize and Upsample, axis by axis: each is a product with a matrix of weights."""
    x = call.x
    if call.node.op_type == "Upsample":
        given = call.get(1)
        scales = call.attr("scales") if given is None else given.tolist()
        sizes = None
    else:
        ports = (2, 3) if call.opset >= 11 else (1, 9)
        found = [call.get(port) for port in ports]
        scales, sizes = (None if t is None or not t.numel() else t.tolist() for t in found)
    if call.attr("antialias", 0) or call.attr("exclude_outside", 0):
        call.refuse("antialias and exclude_outside")
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        call.refuse("keep_aspect_ratio_policy")
    axes = call.attr("axes") or list(range(x.dim()))
    for place, axis in enumerate(axes):
        old = x.shape[axis]
        new = int(sizes[place]) if sizes is not None else floor(old * scales[place])
        scale = new / old if scales is None else scales[place]
        if new == old and scale == 1:
            continue
        matrix = _resize_matrix(call, old, new, scale).to(x.dtype)
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def _resize_matrix(call: Call, old: int, new: int, scale: float) -> Tensor:
    """`float32[new, old]`: how much of each old position a new one takes."""
    default = "half_pixel" if call.opset >= 11 and call.node.op_type == "Resize" else "asymmetric"
    kind = call.attr("coordinate_transformation_mode", default)
    at = torch.arange(new, dtype=torch.float64)
    if kind == "half_pixel" or (kind == "pytorch_half_pixel" and new > 1):
        at = (at + 0.5) / scale - 0.5
    elif kind == "pytorch_half_pixel":
        at = at * 0
    elif kind == "align_corners":
        at = at * ((old - 1) / (new - 1)) if new > 1 else at * 0
    elif kind == "asymmetric":
        at = at / scale
    elif kind == "half_pixel_symmetric":
        shift = old / 2 * (1 - new / (scale * old))
        at = shift + (at + 0.5) / scale - 0.5
    else:
        call.refuse(f"coordinate_transformation_mode {kind!r}")
    mode = call.attr("mode", "nearest")
    if mode == "nearest":
        taps = [(_nearest(call, at), torch.ones_like(at))]
    elif mode in ("linear", "cubic"):
        low = at.clamp(0, old - 1).floor() if mode == "linear" else at.floor()
        part = (at.clamp(0, old - 1) if mode == "linear" else at) - low
        taps = [(low, 1 - part), (low + 1, part)] if mode == "linear" else []
        a = call.attr("cubic_coeff_a", -0.75)
        for step in range(-1, 3) if mode == "cubic" else ():
            taps.append((low + step, _cubic((part - step).abs(), a)))
    else:
        call.refuse(f"mode {mode!r}")
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for place, weight in taps:
        matrix.scatter_add_(1, place.clamp(0, old - 1).long()[:, None], weight[:, None])
    return matrix


def _nearest(call: Call, at: Tensor) -> Tensor:
    # Before opset 11 there was no choice, and ONNX Runtime rounds down.
    default = "round_prefer_floor" if call.opset >= 11 else "floor"
    mode = call.attr("nearest_mode", default)
    if mode == "round_prefer_floor":
        return (at - 0.5).ceil()
    if mode == "round_prefer_ceil":
        return (at + 0.5).floor()
    return at.floor() if mode == "floor" else at.ceil()


def _cubic(t: Tensor, a: float) -> Tensor:
    """Weights at distance t (Keys 1981)."""
    inner = ((a + 2) * t - (a + 3)) * t * t + 1
    outer = ((t - 5) * t + 8) * t * a - 4 * a
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, torch.zeros_like(t)))


OPERATORS: Operators = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "Resize": _resize,
    "Upsample": _resize,
}
