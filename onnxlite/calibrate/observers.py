"""Observers: from the statistics of a value to its quantization range.

A new observer is one function and one entry in `OBSERVERS` and `ObserverName`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.histogram import Array64, Histogram
from onnxlite.calibrate.limits import Range
from onnxlite.calibrate.statistics import ValueStatistics

#: Observers that decide for each value by itself.
ObserverName = Literal["minmax", "moving-average", "percentile", "mse"]

#: Bins that a search looks at: 8 to a step of an 8-bit type.
_SEARCH_BINS = 2048
#: Fraction of the samples that the percentile observer leaves out at either end.
LEFT_OUT = 0.01
#: Fractions of the whole range that are tried; fine near 1, where the common answers lie.
_MSE_FACTORS = np.concatenate([np.linspace(1.0, 0.9, 11), np.linspace(0.875, 0.3, 24)])

#: Costs of ranges given by low and high limits `[k]`.
Cost = Callable[[Array64, Array64], Array64]


class Observer(Protocol):
    """A rule for the range of one value; never wider than what was seen."""

    def __call__(self, seen: ValueStatistics, levels: Levels, /) -> Range:
        """Return the range that integers of `levels` shall cover."""
        ...


@dataclass(frozen=True)
class Levels:
    """A quantized type as observers see it: evenly spaced numbers.

    Attributes:
        qmin: the smallest integer.
        qmax: the largest integer.
        symmetric: whether zero lies in the middle.
    """

    qmin: int
    qmax: int
    symmetric: bool

    def scale_zero(self, low: Array64, high: Array64) -> tuple[Array64, Array64]:
        """Return scale and zero point of ranges `[k]`, as `quantize` gives them; 0 is exact."""
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if self.symmetric:
            bound = np.maximum(-low, high)
            return np.where(bound > 0, bound, 1.0) / self.qmax, np.zeros_like(bound)
        width = high - low
        scale = np.where(width > 0, width, 1.0) / (self.qmax - self.qmin)
        return scale, np.clip(np.rint(self.qmin - low / scale), self.qmin, self.qmax)

    def errors(self, seen: Histogram, low: Array64, high: Array64) -> Array64:
        """Return the mean squared error of the elements under each of k ranges: [k]."""
        middles, counts = seen.at_most(_SEARCH_BINS).occupied()
        scale, zero = self.scale_zero(low, high)
        scale, zero = scale[:, None], zero[:, None]
        # In place: these are the largest arrays of a search.
        error: Array64 = middles / scale
        np.rint(error, out=error)
        np.maximum(error, self.qmin - zero, out=error)
        np.minimum(error, self.qmax - zero, out=error)
        error *= scale
        error -= middles
        np.square(error, out=error)
        result: Array64 = (error @ counts) / counts.sum()
        return result


def minmax_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Cover everything that was seen."""
    del levels
    return seen.range


def average_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Average the limits of all feeds."""
    del levels
    return seen.average.range


def percentile_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Leave out the limits of 1% of the samples, at either end; none of fewer than 100.

    A fraction of the elements would be none at all of small values, and of large ones it would
    cut off the same rare samples that the range is for.
    """
    del levels
    return seen.limits.inner(LEFT_OUT)


def mse_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Minimize the mean squared error of the quantized elements."""
    coarse = seen.histogram.at_most(_SEARCH_BINS)
    return _search(seen.range, lambda low, high: levels.errors(coarse, low, high))


#: Every observer by its public name.
OBSERVERS: Mapping[ObserverName, Observer] = MappingProxyType(
    {
        "minmax": minmax_range,
        "moving-average": average_range,
        "percentile": percentile_range,
        "mse": mse_range,
    }
)


def _search(seen: Range, cost: Cost) -> Range:
    """Return the cheapest range within `seen`: limits in turn, twice; a limit of 0 stays."""
    factors = _MSE_FACTORS
    low = high = 1.0
    # The other limit when this one was searched: the answer follows from it.
    high_then = low_then = 0.0
    for _ in range(2):
        if seen.low < 0 and high_then != high:
            low, high_then = float(factors[np.argmin(cost(*_shrunk(seen, factors, high)))]), high
        if seen.high > 0 and low_then != low:
            high, low_then = float(factors[np.argmin(cost(*_shrunk(seen, low, factors)))]), low
    return Range(seen.low * low, seen.high * high)


def _shrunk(
    seen: Range, low: NDArray[Any] | float, high: NDArray[Any] | float
) -> tuple[Array64, Array64]:
    """Multiply the limits of `seen` by factors; two arrays of one length."""
    lows, highs = np.broadcast_arrays(
        np.float64(seen.low) * np.asarray(low), np.float64(seen.high) * np.asarray(high)
    )
    return np.atleast_1d(lows).astype(np.float64), np.atleast_1d(highs).astype(np.float64)
