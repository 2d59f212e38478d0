"""Statistics of a model's values, from one pass over the samples.

Extremes are exact. The histogram is of a sample: up to some thousand elements of a feed, and of
many feeds not all, chosen by position, so that it does not depend on how the samples are split
among passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import length_hint
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.histogram import Histogram
from onnxlite.calibrate.statistics import AverageRange, Range, ValueStatistics
from onnxlite.calibrate.stream import FeedSummary, check_seen, stream
from onnxlite.model import size_bytes
from onnxlite.records import Progress, no_progress
from onnxlite.samples import Samples

#: Samples that are enough for a histogram.
_ENOUGH = 128
#: Weights of a large model.
_LARGE_BYTES = 1 << 26
_GOLDEN = (math.sqrt(5) - 1) / 2


def collect_ranges(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, Range]:
    """Run all samples once and return the range of each named value.

    Args:
        model: the float model; values are named as in its main graph.
        names: `float32` values: graph inputs or outputs of nodes.
        samples: the calibration data.
        threads: intra-operator threads; None takes all cores.
        progress: called after every feed.

    Raises:
        SamplesError: a value is NaN or infinite on some sample, or empty on all of them.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    wanted = list(dict.fromkeys(names))
    lows, highs = np.full(len(wanted), np.inf), np.full(len(wanted), -np.inf)
    for seen in stream(
        model, wanted, samples, sampled=lambda _: False, threads=threads, progress=progress
    ):
        np.minimum(lows, seen.lows, out=lows)
        np.maximum(highs, seen.highs, out=highs)
    limits = zip(wanted, lows.tolist(), highs.tolist(), strict=True)
    found = {name: Range(low, high) for name, low, high in limits if high >= low}
    check_seen(wanted, found)
    return found


def collect_statistics(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ValueStatistics]:
    """Run all samples once and return the statistics of each named value.

    Arguments and errors are those of `collect_ranges`.
    """
    wanted = list(dict.fromkeys(names))

    def collect(share: float) -> dict[str, ValueStatistics]:
        return collect_part(model, wanted, samples, share=share, threads=threads, progress=progress)

    return with_elements(collect, share_sampled(model, length_hint(samples)), wanted)


def share_sampled(model: ir.Model, count: int) -> float:
    """The share of feeds from which elements are taken for the histograms.

    That costs a small network as much as half of its own time, so of many samples not all give
    some. A second session then holds the weights once more: large models, whose own work is more,
    have one.

    Args:
        model: to be calibrated.
        count: of all samples; 0 where that is not known.
    """
    if count < 2 * _ENOUGH or size_bytes(model) > _LARGE_BYTES:
        return 1.0
    return _ENOUGH / count


def with_elements(
    collect: Callable[[float], dict[str, ValueStatistics]], share: float, names: Sequence[str]
) -> dict[str, ValueStatistics]:
    """What is collected from a share of the feeds, or from all where a value needs that.

    Raises:
        SamplesError: a value is empty on all samples.
    """
    found = collect(share)
    if share < 1 and not all(len(seen.histogram.counts) for seen in found.values()):
        found = collect(1.0)
    check_seen(names, found)
    return found


def collect_part(
    model: ir.Model,
    names: Sequence[str],
    samples: Samples,
    *,
    share: float,
    first: int = 0,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ValueStatistics]:
    """The statistics of some of the feeds; a histogram is empty where none gave elements.

    Args:
        model: the float model.
        names: of distinct values.
        samples: these feeds.
        share: see `share_sampled`.
        first: index of the first of these feeds among all.
        threads: of ONNX Runtime.
        progress: called after every feed.
    """
    gatherer = Gatherer(len(names))

    def sampled(index: int) -> bool:
        # Multiples of the golden ratio hit every part of 0 to 1 alike, whatever has a period.
        return (first + index) * _GOLDEN % 1.0 < share

    for seen in stream(model, names, samples, sampled=sampled, threads=threads, progress=progress):
        gatherer.add(seen)
    found = zip(names, gatherer.statistics(), strict=True)
    return {name: statistics for name, statistics in found if statistics is not None}


Array64 = NDArray[np.float64]

#: Elements of a value that are counted at once, and of all values.
_BUFFERED_PER_VALUE, _MAX_BUFFERED = 1 << 16, 1 << 23
#: Limits of so many feeds are added up at once.
_MAX_BUFFERED_FEEDS = 1 << 10


class Gatherer:
    """Takes one summary after the other; some wait, because much at once costs hardly more.

    Elements are copied, so that ONNX Runtime writes the next ones into the same memory.

    Args:
        count: of values.
    """

    def __init__(self, count: int) -> None:
        self._gathered = [_Gathered() for _ in range(count)]
        self._limits: list[tuple[Array64, Array64]] = []
        self._elements = np.empty(min(_BUFFERED_PER_VALUE * count, _MAX_BUFFERED), np.float32)
        # Where each value's elements begin, and the last one's end: a row per feed.
        self._borders: list[NDArray[np.int64]] = []

    def add(self, seen: FeedSummary) -> None:
        """Take one feed's summary."""
        self._limits.append((seen.lows, seen.highs))
        if len(self._limits) >= _MAX_BUFFERED_FEEDS:
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
