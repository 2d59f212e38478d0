"""Statistics of a value, mergeable over shards: range, limits of samples, histogram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.limits import Range, SampleLimits

#: Of float64.
_MANTISSA_BITS = 53


@dataclass(frozen=True)
class AverageRange:
    """Average limits of feeds, as sums of the smallest and the largest number of each.

    Every feed has the same weight. An exponential average, which others use, depends on the
    order of the samples, so that shards of them could not be merged. The sums are fractions
    because floats would round differently in another order.
    """

    feeds: int
    low: Fraction
    high: Fraction

    @classmethod
    def of(cls, seen: Range) -> AverageRange:
        """Return the average of one feed."""
        return cls(1, Fraction(seen.low), Fraction(seen.high))

    @classmethod
    def over(cls, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> AverageRange:
        """Return the average of many feeds, from the limits of each: [feeds] both, at least one."""
        return cls(len(lows), _exact_sum(lows), _exact_sum(highs))

    def merge(self, other: AverageRange) -> AverageRange:
        """Return the average over both sets of feeds; exact, in any order."""
        return AverageRange(self.feeds + other.feeds, self.low + other.low, self.high + other.high)

    @property
    def range(self) -> Range:
        """Average limits."""
        return Range(float(self.low / self.feeds), float(self.high / self.feeds))


def _exact_sum(values: NDArray[np.float64]) -> Fraction:
    """Sum without rounding: whole numbers on the finest exponent there is."""
    mantissas, exponents = np.frexp(values)
    finest = int(exponents.min())
    whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64).tolist()
    shifts = (exponents - finest).tolist()
    total = sum(number << shift for number, shift in zip(whole, shifts, strict=True))
    return Fraction(total) * Fraction(2) ** (finest - _MANTISSA_BITS)


@dataclass(frozen=True, eq=False)
class ValueStatistics:
    """Statistics of one value.

    Attributes:
        range: over all elements of all samples.
        average: of the limits of each feed.
        histogram: of the sampled elements; empty where none were asked for.
        limits: of the single samples that reach farthest.
    """

    range: Range
    average: AverageRange
    histogram: Histogram
    limits: SampleLimits

    def merge(self, other: ValueStatistics) -> ValueStatistics:
        """Return the statistics of both sets of feeds together; exact, in any order."""
        return ValueStatistics(
            self.range.merge(other.range),
            self.average.merge(other.average),
            self.histogram.merge(other.histogram),
            self.limits.merge(other.limits),
        )


def merge_statistics(
    shards: Iterable[Mapping[str, ValueStatistics]],
) -> dict[str, ValueStatistics]:
    """Merge the statistics of shards; one pass over all their feeds gives the same.

    Shards hold whole feeds: the moving average has one weight per feed.
    """
    result: dict[str, ValueStatistics] = {}
    for shard in shards:
        for name, seen in shard.items():
            result[name] = result[name].merge(seen) if name in result else seen
    return result
