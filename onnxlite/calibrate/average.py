"""The moving average of a value's limits, with equal weights so that it can be merged."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from onnxlite.calibrate.ranges import Range


@dataclass(frozen=True)
class AverageRange:
    """Sums over feeds of the smallest and the largest number of each.

    Every feed has the same weight. An exponential average, which others use, depends on the
    order of the samples, so that shards of them could not be merged. The sums are fractions
    because floats would round differently in another order.
    """

    feeds: int
    low: Fraction
    high: Fraction

    @classmethod
    def of(cls, seen: Range) -> AverageRange:
        """The average of one feed."""
        return cls(1, Fraction(seen.low), Fraction(seen.high))

    def merge(self, other: AverageRange) -> AverageRange:
        """The average over both sets of feeds; exact, in any order."""
        return AverageRange(self.feeds + other.feeds, self.low + other.low, self.high + other.high)

    @property
    def range(self) -> Range:
        """The average limits."""
        return Range(float(self.low / self.feeds), float(self.high / self.feeds))
