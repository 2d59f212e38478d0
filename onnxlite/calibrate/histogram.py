"""Histograms whose bins nest, so that any number of them merge exactly and in any order.

A bin is `[index * 2^e, (index + 1) * 2^e)`. The exponent is the smallest with which all
elements fit into `BINS` bins: it depends on the elements alone, never on their order or on
how they were split. A coarser histogram is the finer one with neighbours added up, so
`merge` gives bit for bit what one histogram of everything would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]

#: Most bins of a histogram: at least 8 to a step of an 8-bit type.
BINS = 4096
#: Bins are no finer than this fraction of the largest magnitude: 2^23 of them, as float32 has.
_MAGNITUDE_BITS = 23
#: The smallest power of two whose inverse float32 holds.
_FINEST_INVERTED = -126
#: The smallest number of float32 is 2^-149.
_FINEST = -149


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of elements in bins.

    Attributes:
        exponent: bins are `2**exponent` wide.
        first: index of the first bin, which begins at `first * 2**exponent`.
        counts: int64[bins], of which the first and the last are not 0.
    """

    exponent: int
    first: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> Histogram:
        """Count float32 values of any shape, at least one and all finite."""
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        exponent = _smallest_exponent(low, high)
        # Exact in float64, where no float32 number times a power of two leaves the range; in
        # float32 where that multiplies by a number from 1 on.
        exact = np.dtype(np.float32 if _FINEST_INVERTED <= exponent <= 0 else np.float64)
        index: NDArray[Any] = np.multiply(flat, exact.type(2.0**-exponent), dtype=exact)
        np.floor(index, out=index)
        first = math.floor(math.ldexp(low, -exponent))
        index -= exact.type(first)
        return cls(exponent, first, np.bincount(index.astype(np.intp)).astype(np.int64, copy=False))

    @classmethod
    def empty(cls) -> Histogram:
        """Return the histogram of no elements, the neutral element of `merge`."""
        return cls(_FINEST, 0, np.zeros(0, np.int64))

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets of elements; exact, in any order."""
        if not len(self.counts) or not len(other.counts):
            return self if len(self.counts) else other
        exponent = max(self.exponent, other.exponent)
        while True:
            a, b = self.coarsened(exponent), other.coarsened(exponent)
            first = min(a.first, b.first)
            size = max(a.first + len(a.counts), b.first + len(b.counts)) - first
            if size <= BINS:
                break
            exponent += 1
        counts = np.zeros(size, np.int64)
        for part in (a, b):
            start = part.first - first
            counts[start : start + len(part.counts)] += part.counts
        return Histogram(exponent, first, counts)

    def coarsened(self, exponent: int) -> Histogram:
        """Put the elements into bins of `2**exponent`, which is not finer than now."""
        # Indices have fewer bits than this, and a shift by 64 is not defined.
        shift = min(exponent - self.exponent, 2 * _MAGNITUDE_BITS)
        if shift <= 0:
            return self
        index = (self.first + np.arange(len(self.counts), dtype=np.int64)) >> shift
        first = int(index[0])
        starts = np.flatnonzero(np.diff(index, prepend=first - 1))
        return Histogram(exponent, first, np.add.reduceat(self.counts, starts))

    def at_most(self, bins: int) -> Histogram:
        """Put the elements into no more than `bins` bins, for searches that look at each."""
        exponent = self.exponent
        while len(self.counts) >> (exponent - self.exponent) > bins:
            exponent += 1
        return self.coarsened(exponent)

    @property
    def total(self) -> int:
        """Number of elements."""
        return int(self.counts.sum())

    def occupied(self) -> tuple[Array64, Array64]:
        """Return middles and counts, float64 both, of the bins that are not empty.

        The bin that begins at zero stands for zero: behind a Relu that is most of it.
        """
        filled = np.flatnonzero(self.counts)
        index = self.first + filled
        middles = np.ldexp(np.where(index == 0, 0.0, index + 0.5), self.exponent)
        return middles, self.counts[filled].astype(np.float64)


def _smallest_exponent(low: float, high: float) -> int:
    magnitude = max(-low, high)
    # frexp: magnitude < 2^exponent.
    exponent = max(_FINEST, int(np.frexp(magnitude)[1]) - _MAGNITUDE_BITS if magnitude else 0)
    if not magnitude:
        return _FINEST
    span = (high - low) / BINS
    if span:
        exponent = max(exponent, int(np.frexp(span)[1]) - 1)
    while np.floor(np.ldexp(high, -exponent)) - np.floor(np.ldexp(low, -exponent)) >= BINS:
        exponent += 1
    return exponent
