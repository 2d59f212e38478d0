"""Grids: the discrete numbers that weights may take, whole multiples of a scale.

A weight is `q * scale` with integers `low <= q <= high`. Eight bits are -127..127, ternary
weights -1..1, binary ones the two odd numbers of them. An output has one scale, or one for
every few features. A scale is chosen by search, so that what is clipped and what is rounded
weigh least on the layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: Scales tried, as multiples of the one that reaches the largest weight.
_SHRUNK = np.linspace(0.5, 1.0, 26)
#: The same where pairs are bounded: at 2 no pair has too much.
_WIDENED = np.geomspace(0.8, 2.0, 33)
#: The same for few levels, whose best scale is far below the largest weight.
_COARSE = np.geomspace(0.06, 1.0, 57)
_FEW_LEVELS = 8
#: Largest integer from which a smaller scale gains nothing.
_FINE = 127


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Grid of one layer's weight `[g, K, M]`.

    Attributes:
        high: the largest integer; the smallest is `-high`, or one less.
        uneven: the smallest is one less. It takes the largest weight of either sign: a scale
            may be negative.
        odd: only odd integers.
        block: how many features of an output have a scale of their own; 0 for all. It divides
            their number.
        shared: all outputs have one scale.
        partner: int[K], for each feature the one whose product is added to its own in a
            narrow accumulator, -1 for none; None where accumulators are wide.
        pair_limit: the most that two partners of one sign may add up to.
    """

    high: int
    uneven: bool = False
    odd: bool = False
    block: int = 0
    shared: bool = False
    partner: NDArray[np.intp] | None = None
    pair_limit: int = 0

    @property
    def coarse(self) -> bool:
        """True if the levels are so few that choosing them well takes time and pays."""
        return self.high < 2 and self.partner is None and not self.shared

    @property
    def fine(self) -> bool:
        """True if the levels are so many that the scale of the largest weight is the best."""
        return self.high >= _FINE and self.partner is None

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -self.high - self.uneven

    def full_scale(self, weight: Array64) -> Array64:
        """Return the scale that just reaches the largest weight of each output.

        Returns:
            float64[g, M], with blocks float64[g, blocks, M].
        """
        if self.block:
            groups, features, outputs = weight.shape
            parts = weight.reshape(-1, self.block, outputs)
            scales = replace(self, block=0).full_scale(parts)
            return scales.reshape(groups, features // self.block, outputs)
        if self.uneven:
            low, high = weight.min(axis=1), weight.max(axis=1)
            larger = np.where(high > -low, high, low)
            return np.where(larger != 0, -larger, self.high + 1) / (self.high + 1)
        largest = np.abs(weight).max(axis=1)
        if self.shared:
            largest = np.full_like(largest, largest.max())
        nothing = np.finfo(np.float32).tiny if self.odd else self.high
        scale: Array64 = np.where(largest > 0, largest, nothing) / self.high
        return scale

    def best_scale(self, weight: Array64, power: Array64) -> Array64:
        """Return the scale whose nearest integers have the least squared error, like `full_scale`.

        Args:
            weight: float64[g, K, M].
            power: float64[g, K]: how much an error of each feature's weight counts, its
                mean square.
        """
        full = self.full_scale(weight)
        best, least = full, np.full(full.shape, np.inf)
        for factor in self._factors():
            scale = full * factor
            wrong = weight - self.nearest(weight, scale) * self.spread(scale)
            if self.block:
                weighed = power[:, :, None] * wrong**2
                error = weighed.reshape(len(full), -1, self.block, full.shape[-1]).sum(axis=2)
            else:
                error = np.einsum("gk,gkm->gm", power, wrong**2)
            if self.shared:
                error = np.full_like(error, error.sum())
            better = error < least
            best, least = np.where(better, scale, best), np.where(better, error, least)
        return best

    def start_scale(self, weight: Array64) -> Array64:
        """Return the scale to begin with: the full one, or of few levels the best one."""
        if 2 * self.high + 1 > _FEW_LEVELS:
            return self.full_scale(weight)
        return self.best_scale(weight, np.ones(weight.shape[:2]))

    def spread(self, scale: Array64) -> Array64:
        """Spread scales over features, to broadcast with `[g, K, M]`."""
        return np.repeat(scale, self.block, axis=1) if self.block else scale[:, None]

    def times(self, scale: Array64, factor: Array64) -> Array64:
        """Multiply scales by a factor per output, `[g, M]`."""
        product: Array64 = scale * (factor[:, None] if self.block else factor)
        return product

    def snap(self, exact: Array64, low: Any, high: Any) -> Array64:
        """Return the integers of the grid nearest to `exact`, from `low` to `high`."""
        whole = 2 * np.floor(exact / 2) + 1 if self.odd else np.rint(exact)
        snapped: Array64 = np.clip(whole, low, high)
        return snapped

    def nearest(self, weight: Array64, scale: Array64) -> Array64:
        """Return the integers nearest to `weight / scale`, `[g, K, M]`.

        Of partners that have too much, the one rounded up further gives way.
        """
        exact = weight / self.spread(scale)
        integers = self.snap(exact, self.low, self.high)
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
        """Return the range left for a feature whose partner has the integer `other` already."""
        room = np.minimum(self.high, self.pair_limit - np.abs(other))
        return np.where(other < 0, -room, -self.high), np.where(other > 0, room, self.high)

    def _factors(self) -> NDArray[np.float64]:
        if self.partner is not None:
            return _WIDENED
        return _COARSE if 2 * self.high + 1 <= _FEW_LEVELS else _SHRUNK
