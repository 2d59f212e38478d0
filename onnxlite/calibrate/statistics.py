"""Everything that an observer may ask of a value, from one pass over the samples.

Extremes are exact. The histogram is of a sample: up to some thousand elements of every feed,
chosen by position, so that it does not depend on how the samples are split among passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.average import AverageRange
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.stream import stream
from onnxlite.records import Progress, silent
from onnxlite.samples import Samples

#: Elements of a value that are counted at once.
_AT_ONCE = 1 << 16
#: Limits of so many feeds are added up at once.
_FEEDS_AT_ONCE = 1 << 10


@dataclass(frozen=True, eq=False)
class ValueStatistics:
    """What was seen of one value.

    Attributes:
        range: over all elements of all samples.
        average: of the limits of each feed.
        histogram: of the sampled elements.
    """

    range: Range
    average: AverageRange
    histogram: Histogram

    def merge(self, other: ValueStatistics) -> ValueStatistics:
        """Of both sets of feeds together; exact, in any order."""
        return ValueStatistics(
            self.range.merge(other.range),
            self.average.merge(other.average),
            self.histogram.merge(other.histogram),
        )


def collect_statistics(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, ValueStatistics]:
    """Run all samples once and return the statistics of each named value.

    Arguments and errors are those of `collect_ranges`.
    """
    wanted = list(dict.fromkeys(names))
    gathered = [_Gathered() for _ in wanted]
    for seen in stream(model, wanted, samples, sample=True, threads=threads, progress=progress):
        limits = zip(seen.lows.tolist(), seen.highs.tolist(), seen.samples, strict=True)
        for one, (low, high, sample) in zip(gathered, limits, strict=True):
            if sample.size:
                one.add(low, high, sample)
    found = zip(wanted, (one.statistics() for one in gathered), strict=True)
    return {name: statistics for name, statistics in found if statistics is not None}


class _Gathered:
    """What waits to be counted of a value: much at once costs hardly more than little."""

    def __init__(self) -> None:
        self._limits: list[tuple[float, float]] = []
        self._average: AverageRange | None = None
        self._range = Range(math.inf, -math.inf)
        self._waiting: NDArray[np.float32] | None = None
        self._size = 0
        self._histogram: Histogram | None = None

    def add(self, low: float, high: float, sample: NDArray[Any]) -> None:
        """Take the limits of a feed and a copy of some of its elements, at least one.

        A copy, because ONNX Runtime then writes the next sample where this one was.
        """
        self._limits.append((low, high))
        if len(self._limits) >= _FEEDS_AT_ONCE:
            self._fold()
        if self._waiting is None or self._size + sample.size > len(self._waiting):
            self._count()
            if self._waiting is None or sample.size > len(self._waiting):
                self._waiting = np.empty(max(_AT_ONCE, sample.size), np.float32)
        self._waiting[self._size : self._size + sample.size] = sample.reshape(-1)
        self._size += sample.size

    def statistics(self) -> ValueStatistics | None:
        """Of everything that was added, whatever it was added in; None if nothing was."""
        self._count()
        self._fold()
        if self._average is None or self._histogram is None:
            return None
        return ValueStatistics(self._range, self._average, self._histogram)

    def _count(self) -> None:
        if self._waiting is not None and self._size:
            new = Histogram.of(self._waiting[: self._size])
            self._histogram = new if self._histogram is None else self._histogram.merge(new)
            self._size = 0

    def _fold(self) -> None:
        if self._limits:
            lows, highs = np.array(self._limits).T
            new = AverageRange.over(lows, highs)
            self._average = new if self._average is None else self._average.merge(new)
            self._range = self._range.merge(Range(float(lows.min()), float(highs.max())))
            self._limits = []


def merge_statistics(
    shards: Iterable[Mapping[str, ValueStatistics]],
) -> dict[str, ValueStatistics]:
    """The statistics of all shards together, as one pass over all their feeds gives them.

    Shards hold whole feeds: the moving average has one weight per feed.
    """
    result: dict[str, ValueStatistics] = {}
    for shard in shards:
        for name, seen in shard.items():
            result[name] = result[name].merge(seen) if name in result else seen
    return result
