"""Rounded weights made better one feature at a time, once all of them are rounded.

With `H = X'X` the error of a rounded weight Q is `(Q - W)' H (Q - W)`. In one coordinate, all
others held, it is least at `q_k - (H (Q - W))_k / H_kk`; the grid's number nearest to that is
the best choice for this feature, so that no step makes the error larger (Behdin et al. 2023,
QuantEase, alg. 1). It pays where the levels are few, and compensation therefore leaves much.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.repair.grid import Grid

Array64: TypeAlias = NDArray[np.float64]

#: Rounds over all features: later ones change next to nothing.
_SWEEPS = 3


def descend(
    integers: Array64, weight: Array64, gram: Array64, scale: Array64, grid: Grid
) -> Array64:
    """Integers of no more error than those given.

    Args:
        integers: float64[g, K, M], on the grid.
        weight: float64[g, K, M], what they should stand for.
        gram: float64[g, K, K].
        scale: as the grid gives it.
        grid: without partners.
    """
    steps = np.broadcast_to(grid.spread(scale), weight.shape)
    support = (weight != 0) | grid.odd
    present = integers * steps
    # How the error grows with each weight, halved.
    slope = gram @ (present - weight)
    power = np.diagonal(gram, axis1=1, axis2=2)
    result = integers.copy()
    for _ in range(_SWEEPS):
        moved = 0
        for k in range(weight.shape[1]):
            curve = power[:, k, None]
            best = present[:, k] - np.divide(
                slope[:, k], curve, out=np.zeros_like(slope[:, k]), where=curve > 0
            )
            new = grid.snap(best / steps[:, k], grid.low, grid.high) * support[:, k]
            change = (new - result[:, k]) * steps[:, k]
            if not change.any():
                continue
            moved += int(np.count_nonzero(change))
            slope += gram[:, :, k, None] * change[:, None]
            result[:, k] = new
            present[:, k] += change
        if not moved:
            break
    return result
