"""Range of a value over all samples, and the limits of the single samples that reach its ends.

Few samples decide a range, and a burst or a broken pixel makes one of them. So besides the range
of all samples the farthest limits of single samples are kept, with the numbers of the samples;
they merge exactly and in any order, and memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: Limits kept of all values together at either end, and at least and at most of one value.
_KEPT, _MIN_KEPT, _MAX_KEPT = 1 << 18, 64, 1024


class Range(msgspec.Struct, frozen=True):
    """Smallest and largest number seen."""

    low: float
    high: float

    def merge(self, other: Range) -> Range:
        """Return the range that covers both; merging is exact, so shards may be merged."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def width(self) -> float:
        """Width of the range with zero, which integers always cover."""
        return max(self.high, 0.0) - min(self.low, 0.0)


def limits_kept(values: int) -> int:
    """Number of limits that are kept at either end of each of some values."""
    return min(max(_KEPT // max(values, 1), _MIN_KEPT), _MAX_KEPT)


@dataclass(frozen=True, eq=False)
class Tail:
    """The farthest limits of single samples at one end of a value's range.

    Attributes:
        limits: float64[k], of k samples, the farthest first.
        samples: int64[k], their numbers among all samples.
    """

    limits: Array64
    samples: Numbers

    def without(self, samples: Numbers) -> float | None:
        """The farthest limit of the other samples; None where no other is kept."""
        others = ~np.isin(self.samples, samples)
        return float(self.limits[np.argmax(others)]) if others.any() else None


@dataclass(frozen=True, eq=False)
class SampleLimits:
    """Farthest limits of single samples at both ends of a value's range.

    Attributes:
        count: number of samples that had elements.
        lows: tail of the smallest numbers of samples.
        highs: tail of the largest numbers.
        kept: most limits in a tail.
        whole: the value does not show its samples apart; limits are of whole feeds then, numbered
            by their first sample.
    """

    count: int
    lows: Tail
    highs: Tail
    kept: int
    whole: bool = False

    @classmethod
    def of(
        cls, lows: Array64, highs: Array64, samples: Numbers, *, kept: int, whole: bool = False
    ) -> SampleLimits:
        """Return the limits of some samples: lowest and highest number of each, and its number."""
        return cls(
            len(samples),
            _tail(lows, samples, kept, sign=1),
            _tail(highs, samples, kept, sign=-1),
            kept,
            whole,
        )

    def merge(self, other: SampleLimits) -> SampleLimits:
        """Return the limits of both sets of samples; exact, in any order."""
        sides = [
            _tail(
                np.concatenate([a.limits, b.limits]),
                np.concatenate([a.samples, b.samples]),
                self.kept,
                sign=sign,
            )
            for a, b, sign in ((self.lows, other.lows, 1), (self.highs, other.highs, -1))
        ]
        return SampleLimits(
            self.count + other.count, sides[0], sides[1], self.kept, self.whole or other.whole
        )

    def without(self, samples: Iterable[int]) -> Range | None:
        """Return the range of all other samples; None where too few limits are kept."""
        numbers = np.asarray(sorted(samples), np.int64)
        low, high = self.lows.without(numbers), self.highs.without(numbers)
        return None if low is None or high is None else Range(low, high)

    def inner(self, fraction: float) -> Range:
        """Return the range that a fraction of the samples exceeds at either end."""
        # Where fewer limits are kept, those leave as many out as they can.
        index = min(int(self.count * fraction), len(self.lows.limits) - 1)
        low, high = float(self.lows.limits[index]), float(self.highs.limits[index])
        return Range(min(low, high), max(low, high))

    def beyond(self, inner: Range) -> dict[int, float]:
        """Return how far each sample exceeds a range, as a fraction of that range's width.

        Of more samples than are kept the farthest ones are returned.
        """
        width = max(inner.width, float(np.finfo(np.float64).tiny))
        excess: dict[int, float] = {}
        for tail, by in (
            (self.lows, (inner.low - self.lows.limits) / width),
            (self.highs, (self.highs.limits - inner.high) / width),
        ):
            far = by > 0
            for sample, how_far in zip(tail.samples[far].tolist(), by[far].tolist(), strict=True):
                excess[sample] = max(how_far, excess.get(sample, 0.0))
        return excess


def _tail(limits: Array64, samples: Numbers, kept: int, *, sign: int) -> Tail:
    order = np.lexsort((samples, sign * limits))[:kept]
    return Tail(limits[order], samples[order])


class LimitsBuffer:
    """Limits of the samples of some feeds, for all values at once.

    Args:
        values: their number.
    """

    def __init__(self, values: int) -> None:
        self._kept = limits_kept(values)
        self._feeds: list[tuple[NDArray[Any], NDArray[Any], Numbers]] = []
        self._whole = np.zeros(values, np.bool_)

    def __len__(self) -> int:
        return sum(len(numbers) for _, _, numbers in self._feeds)

    def add(
        self, lows: NDArray[Any], highs: NDArray[Any], first: int, whole: NDArray[np.bool_]
    ) -> None:
        """Add a feed: limits [values, samples], and the number of its first sample."""
        numbers = np.arange(first, first + lows.shape[1], dtype=np.int64)
        self._feeds.append((lows.astype(np.float32), highs.astype(np.float32), numbers))
        self._whole |= whole

    def take(self) -> Sequence[SampleLimits | None]:
        """Return the limits of each value, and begin anew; None of values without elements."""
        if not self._feeds:
            return [None] * len(self._whole)
        parts = zip(*self._feeds, strict=True)
        lows, highs, numbers = (np.concatenate(part, axis=-1) for part in parts)
        found = []
        for low, high, whole in zip(lows, highs, self._whole.tolist(), strict=True):
            some = high >= low
            found.append(
                SampleLimits.of(
                    low[some].astype(np.float64),
                    high[some].astype(np.float64),
                    numbers[some],
                    kept=self._kept,
                    whole=whole,
                )
                if some.any()
                else None
            )
        self._feeds = []
        return found
