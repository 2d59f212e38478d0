"""What is kept of a value's elements: everything that an observer may ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxlite.calibrate.average import AverageRange
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.ranges import Range


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
