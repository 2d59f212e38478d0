"""Everything that an observer may ask of a value, from one pass over the samples.

Extremes are exact. The histogram is of a sample: up to some thousand elements of every feed,
chosen by position, so that it does not depend on how the samples are split among passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
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
_AT_ONCE = 1 << 15


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
    ranges: dict[str, tuple[Range, AverageRange]] = {}
    gathered: dict[str, _Gathered] = {}
    for summaries in stream(model, names, samples, sample=True, threads=threads, progress=progress):
        for name, (low, high, sample) in summaries.items():
            if sample is None or not sample.size:
                continue
            seen = Range(low, high)
            new = seen, AverageRange.of(seen)
            if name in ranges:
                old = ranges[name]
                new = old[0].merge(new[0]), old[1].merge(new[1])
            ranges[name] = new
            gathered.setdefault(name, _Gathered()).add(sample)
    return {
        name: ValueStatistics(whole, average, gathered[name].histogram())
        for name, (whole, average) in ranges.items()
    }


class _Gathered:
    """The samples of a value; a histogram of many costs hardly more than one of few."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[Any]] = []
        self._size = 0
        self._done: Histogram | None = None

    def add(self, sample: NDArray[Any]) -> None:
        """Take a copy-free hold of some elements, at least one."""
        self._waiting.append(sample.reshape(-1))
        self._size += sample.size
        if self._size >= _AT_ONCE:
            self._done = self.histogram()

    def histogram(self) -> Histogram:
        """Of everything that was added, whatever it was added in."""
        parts = [self._done] if self._done is not None else []
        if self._waiting:
            parts.append(Histogram.of(np.concatenate(self._waiting)))
        self._waiting, self._size = [], 0
        return reduce(Histogram.merge, parts)


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
