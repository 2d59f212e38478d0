"""Summaries of feeds, added up to the statistics of each value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.average import AverageRange
from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.statistics import ValueStatistics
from onnxlite.calibrate.stream import Summary

Array64 = NDArray[np.float64]

#: Elements of a value that are counted at once, and of all values.
_AT_ONCE, _MOST_AT_ONCE = 1 << 16, 1 << 23
#: Limits of so many feeds are added up at once.
_FEEDS_AT_ONCE = 1 << 10


class Gatherer:
    """Takes one summary after the other; some wait, because much at once costs hardly more.

    Elements are copied, so that ONNX Runtime writes the next ones into the same memory.

    Args:
        count: of values.
    """

    def __init__(self, count: int) -> None:
        self._gathered = [_Gathered() for _ in range(count)]
        self._limits: list[tuple[Array64, Array64]] = []
        self._elements = np.empty(min(_AT_ONCE * count, _MOST_AT_ONCE), np.float32)
        # Where each value's elements begin, and the last one's end: a row per feed.
        self._borders: list[NDArray[np.int64]] = []

    def add(self, seen: Summary) -> None:
        """Take one feed's summary."""
        self._limits.append((seen.lows, seen.highs))
        if len(self._limits) >= _FEEDS_AT_ONCE:
            self._fold()
        if not seen.samples:
            return
        flat = [sample.reshape(-1) for sample in seen.samples]
        borders = np.cumsum([0, *map(len, flat)])
        start = int(self._borders[-1][-1]) if self._borders else 0
        if start + borders[-1] > len(self._elements):
            self._count()
            start = 0
            if borders[-1] > len(self._elements):
                self._elements = np.empty(borders[-1], np.float32)
        borders += start
        np.concatenate(flat, out=self._elements[start : borders[-1]])
        self._borders.append(borders)

    def statistics(self) -> list[ValueStatistics | None]:
        """Of every value; None of one without elements."""
        self._fold()
        self._count()
        return [one.statistics() for one in self._gathered]

    def _fold(self) -> None:
        if not self._limits:
            return
        lows, highs = (np.array(side) for side in zip(*self._limits, strict=True))
        for one, low, high in zip(self._gathered, lows.T, highs.T, strict=True):
            some = high >= low
            if some.any():
                one.limits(low[some], high[some])
        self._limits = []

    def _count(self) -> None:
        for index, one in enumerate(self._gathered):
            parts = [self._elements[b[index] : b[index + 1]] for b in self._borders]
            elements = np.concatenate(parts) if parts else self._elements[:0]
            if len(elements):
                one.count(elements)
        self._borders = []


class _Gathered:
    """What was seen of one value so far."""

    def __init__(self) -> None:
        self._average: AverageRange | None = None
        self._range = Range(math.inf, -math.inf)
        self._histogram = Histogram.empty()

    def limits(self, lows: Array64, highs: Array64) -> None:
        """Take the smallest and largest number of some feeds, float64[feeds] both."""
        new = AverageRange.over(lows, highs)
        self._average = new if self._average is None else self._average.merge(new)
        self._range = self._range.merge(Range(float(lows.min()), float(highs.max())))

    def count(self, elements: NDArray[Any]) -> None:
        """Take some elements, at least one."""
        self._histogram = self._histogram.merge(Histogram.of(elements))

    def statistics(self) -> ValueStatistics | None:
        """Of everything that was taken; None if nothing was."""
        if self._average is None:
            return None
        return ValueStatistics(self._range, self._average, self._histogram)
