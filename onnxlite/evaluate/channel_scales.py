"""Scales of channels that a rewrite has multiplied, estimated from values.

Equalization multiplies channels in the layer that makes them and divides in those that read them:
the model computes the same, and its inner values are others. Per channel the factor that brings the
original's values closest to the candidate's is a projection,

    g = sum(r c) / sum(r^2),        sum (c - g r)^2  =  sum(c^2) - sum(r c)^2 / sum(r^2)

so that one pass tells the factors and what would be left without them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]

#: Noise must fall by so much, and some factor be so far from 1: rounding and fits move means by
#: percents.
_LEAST_GAIN_DB, _LEAST_FACTOR = 3.0, 1.1
#: With the factors the values must be the original's to so much.
_LEAST_DB = 6.0


class ChannelScales:
    """Sums over all samples, per channel.

    Args:
        axis: that channels lie along.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: Array64 | None = None

    def update(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add arrays of one shape; those of fewer than two axes have no channels."""
        if reference.ndim < 2:
            return
        sides = [np.moveaxis(side, self._axis, 0) for side in (reference, candidate)]
        r, c = (side.reshape(len(side), -1).astype(np.float64) for side in sides)
        with np.errstate(invalid="ignore"):  # infinite values make NaN, and that no factors
            parts = (r * r, r * c, c * c, (r - c) ** 2)
            sums = np.stack([part.sum(axis=1) for part in parts])
        self._sums = sums if self._sums is None else self._sums + sums

    def found(self, own_db: float) -> Array64 | None:
        """Return factors, float64[channels], if they explain most of the difference.

        Args:
            own_db: of the layer on the original's own values, in dB. If that is no worse than what
                the factors leave, then the layer does not multiply: something before it is wrong,
                and of values far from zero a factor tells much, whatever they are.
        """
        if self._sums is None:
            return None
        square, mixed, other, noise = self._sums
        some = (square > 0) & (mixed > 0)
        factor = np.divide(mixed, square, out=np.ones_like(square), where=some)
        if np.abs(np.log(factor)).max() < np.log(_LEAST_FACTOR):
            return None
        left = np.where(some, other - factor * mixed, noise)
        before, after = _ratio(noise.sum(), square.sum()), _ratio(left.sum(), factor**2 @ square)
        most = min(before * 10 ** (-_LEAST_GAIN_DB / 10), 10 ** (-max(own_db, _LEAST_DB) / 10))
        return factor if after < most else None


def _ratio(noise: float, signal: float) -> float:
    return float(noise / signal) if signal > 0 else 0.0
