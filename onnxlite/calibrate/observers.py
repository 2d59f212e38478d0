"""Observers: from the statistics of a value to the range that its integers shall cover."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol

from onnxlite.calibrate.entropy import entropy_range
from onnxlite.calibrate.levels import Levels
from onnxlite.calibrate.mse import mse_range
from onnxlite.calibrate.percentile import percentile_range
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.statistics import ValueStatistics

#: Observers that decide for each value by itself.
ObserverName = Literal["minmax", "moving-average", "percentile", "entropy", "mse"]


class Observer(Protocol):
    """A rule for the range of one value; never wider than what was seen."""

    def __call__(self, seen: ValueStatistics, levels: Levels, /) -> Range:
        """The range that integers of `levels` shall cover."""
        ...


def minmax_range(seen: ValueStatistics, levels: Levels) -> Range:
    """All that was seen."""
    del levels
    return seen.range


def average_range(seen: ValueStatistics, levels: Levels) -> Range:
    """The limits of a feed, on average."""
    del levels
    return seen.average.range


OBSERVERS: Mapping[ObserverName, Observer] = MappingProxyType(
    {
        "minmax": minmax_range,
        "moving-average": average_range,
        "percentile": percentile_range,
        "entropy": entropy_range,
        "mse": mse_range,
    }
)
