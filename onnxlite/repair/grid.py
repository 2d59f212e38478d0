"""The discrete numbers that weights may take: whole multiples of a scale per output.

A weight is `q * scale` with integers `low <= q <= high`. Eight bits are -127..127, ternary
weights -1..1. A scale is chosen by search, so that what is clipped and what is rounded
weigh least on the layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: Scales tried, as multiples of the one that reaches the largest weight.
_SHRUNK = np.linspace(0.5, 1.0, 26)
#: The same where pairs are bounded: at 2 no pair has too much.
_WIDENED = np.geomspace(0.8, 2.0, 33)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of one layer's weight, as `[g, K, M]`.

    Attributes:
        high: the largest integer; the smallest is `-high`.
        shared: all outputs have one scale.
        partner: int[K], for each feature the one whose product is added to its own in a
            narrow accumulator, -1 for none; None where accumulators are wide.
        pair_limit: the most that two partners of one sign may add up to.
    """

    high: int
    shared: bool = False
    partner: NDArray[np.intp] | None = None
    pair_limit: int = 0

    def full_scale(self, weight: Array64) -> Array64:
        """The scale that just reaches the largest weight of each output: float64[g, M]."""
        largest = np.abs(weight).max(axis=1)
        if self.shared:
            largest = np.full_like(largest, largest.max())
        scale: Array64 = np.where(largest > 0, largest, self.high) / self.high
        return scale

    def best_scale(self, weight: Array64, power: Array64) -> Array64:
        """The scale whose nearest integers have the least squared error, float64[g, M].

        Args:
            weight: float64[g, K, M].
            power: float64[g, K]: how much an error of each feature's weight counts, its
                mean square.
        """
        full = self.full_scale(weight)
        best, least = full, np.full(full.shape, np.inf)
        for factor in _SHRUNK if self.partner is None else _WIDENED:
            scale = full * factor
            wrong = weight - self.nearest(weight, scale) * scale[:, None]
            error = np.einsum("gk,gkm->gm", power, wrong**2)
            if self.shared:
                error = np.full_like(error, error.sum())
            better = error < least
            best, least = np.where(better, scale, best), np.where(better, error, least)
        return best

    def nearest(self, weight: Array64, scale: Array64) -> Array64:
        """The integers nearest to `weight / scale`, `[g, K, M]`.

        Of partners that have too much, the one rounded up further gives way.
        """
        exact = weight / scale[:, None]
        integers = np.clip(np.rint(exact), -self.high, self.high)
        if self.partner is None:
            return integers
        first = np.flatnonzero(np.arange(len(self.partner)) < self.partner)
        second = self.partner[first]
        a, b = integers[:, first], integers[:, second]
        same = np.sign(a) * np.sign(b) > 0
        excess = np.maximum(np.where(same, np.abs(a) + np.abs(b) - self.pair_limit, 0), 0)
        over = np.abs(a) - np.abs(exact[:, first]) > np.abs(b) - np.abs(exact[:, second])
        from_a = excess // 2 + (excess % 2) * over
        integers[:, first] = a - np.sign(a) * from_a
        integers[:, second] = b - np.sign(b) * (excess - from_a)
        return integers

    def bounds(self, other: Array64) -> tuple[Array64, Array64]:
        """What is left for a feature whose partner has the integer `other` already."""
        room = np.minimum(self.high, self.pair_limit - np.abs(other))
        return np.where(other < 0, -room, -self.high), np.where(other > 0, room, self.high)
