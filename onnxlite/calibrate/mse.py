"""The range with the least mean squared error of the quantized elements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxlite.calibrate.histogram import Array64
from onnxlite.calibrate.levels import SEARCH_BINS, Levels, shrunk
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.statistics import ValueStatistics

#: Shares of the whole range that are tried; fine near 1, where the common answers lie.
_FACTORS = np.concatenate([np.linspace(1.0, 0.9, 11), np.linspace(0.875, 0.3, 24)])

#: Costs of ranges given by low and high limits `[k]`.
Cost = Callable[[Array64, Array64], Array64]


def mse_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Search both limits, one after the other, for the least squared error."""
    coarse = seen.histogram.at_most(SEARCH_BINS)
    return search(seen.range, lambda low, high: levels.errors(coarse, low, high))


def search(seen: Range, cost: Cost, *, factors: Array64 = _FACTORS) -> Range:
    """The cheapest range within `seen`: limits in turn, twice; a limit of 0 stays."""
    low = high = 1.0
    # What the other limit was when this one was searched: the answer follows from it.
    low_knows = high_knows = 0.0
    for _ in range(2):
        if seen.low < 0 and low_knows != high:
            low, low_knows = float(factors[np.argmin(cost(*shrunk(seen, factors, high)))]), high
        if seen.high > 0 and high_knows != low:
            high, high_knows = float(factors[np.argmin(cost(*shrunk(seen, low, factors)))]), low
    return Range(seen.low * low, seen.high * high)
