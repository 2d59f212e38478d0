"""Everything that an observer may ask of a value, from one pass over the samples.

Extremes are exact. The histogram is of a sample: up to some thousand elements of every feed,
chosen by position, so that it does not depend on how the samples are split among passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.calibrate.average import AverageRange
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.stream import stream
from onnxlite.records import Progress, silent
from onnxlite.samples import Samples


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
    result: dict[str, ValueStatistics] = {}
    for summaries in stream(model, names, samples, sample=True, threads=threads, progress=progress):
        for name, (low, high, sample) in summaries.items():
            if sample is None or not sample.size:
                continue
            seen = Range(low, high)
            new = ValueStatistics(seen, AverageRange.of(seen), Histogram.of(sample))
            result[name] = result[name].merge(new) if name in result else new
    return result


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
