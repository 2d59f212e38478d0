"""Zero points by half-quadratic quantization (HQQ), without samples.

Badri & Shaji 2023 minimize `|W - dequantize(quantize(W))|_p` with p < 1, which limits the
influence of outliers. With an auxiliary error variable E two steps alternate:

    E    = shrink(W - dequantize(codes)),   shrink(x) = sign(x) max(0, |x| - |x|^(p-1) / beta)
    zero = mean over the block of (codes - (W - E) / scale)

Here W is in steps of the scale, which makes beta a pure number.
"""

from __future__ import annotations

import numpy as np

from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Array, Axes, Levels, nearest_levels

_P, _BETA, _GROWTH, _ROUNDS = 0.7, 10.0, 1.01, 20
#: Lower bound of an error, so that its negative power is finite.
_NOTHING = 1e-8


def hqq_levels(
    kind: WeightType, view: Array, reduced: Axes, *, free_zero: bool, whole_zero: bool
) -> Levels:
    """Find scales and zero points by HQQ; round-to-nearest if zero points are fixed.

    Args:
        kind: the levels.
        view: the weight.
        reduced: axes of the view with one scale.
        free_zero: find a zero point per block, if the type has one.
        whole_zero: round zero points to integers, as kernels need them.
    """
    scale, start = nearest_levels(kind, view, reduced, free_zero=free_zero)
    if start is None:
        return scale, None
    steps = view / np.where(scale > 0, scale, 1)
    zero = best = start.astype(view.dtype)
    least = np.full(scale.shape, np.inf)
    beta, top = _BETA, kind.levels - 1
    for _ in range(_ROUNDS):
        codes = np.clip(np.rint(steps + zero), 0, top)
        wrong = steps - (codes - zero)
        size = np.abs(wrong)
        error = (size**_P).mean(axis=reduced, keepdims=True)
        better = error < least
        if not better.any():
            break
        best, least = np.where(better, zero, best), np.where(better, error, least)
        shrunk = np.maximum(0, size - np.maximum(size, _NOTHING) ** (_P - 1) / beta)
        outliers = np.sign(wrong) * shrunk
        zero = (codes - (steps - outliers)).mean(axis=reduced, keepdims=True)
        zero = np.clip(zero, 0, top)
        beta *= _GROWTH
    if not whole_zero:
        return scale, best

    def norm(zero: Array) -> Array:
        codes = np.clip(np.rint(steps + zero), 0, top)
        total: Array = (np.abs(steps - (codes - zero)) ** _P).sum(axis=reduced, keepdims=True)
        return total

    whole = np.rint(best)
    return scale, np.where(norm(whole) < norm(start), whole, start)
