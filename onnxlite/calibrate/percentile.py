"""The range that leaves out a fixed share of the elements."""

from __future__ import annotations

import numpy as np

from onnxlite.calibrate.levels import Levels
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.statistics import ValueStatistics

#: Percent of the elements inside the range.
PERCENTILE = 99.999


def percentile_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Leave out half of the rest at either end, to the width of a bin.

    Where that is less than one of the sampled elements, the exact limit stays.
    """
    del levels
    histogram = seen.histogram
    tail = histogram.total * (1 - PERCENTILE / 100) / 2
    if tail < 1:
        return seen.range
    below = np.cumsum(histogram.counts)
    low = histogram.first + int(np.searchsorted(below, tail, side="right"))
    last = histogram.first + int(np.searchsorted(below, histogram.total - tail, side="left"))
    width = 2.0**histogram.exponent
    return Range(max(seen.range.low, low * width), min(seen.range.high, (last + 1) * width))
