"""Ranges and statistics of a model's values, from one pass over the samples.

Extremes are exact, of single samples as well. The histogram is of a sample: up to some thousand
elements of a feed, and of many feeds not all, chosen by position, so that it does not depend on
how the samples are split among passes. Memory does not grow with the number of samples.
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
from onnxlite.calibrate.limits import LimitsBuffer, Range, SampleLimits
from onnxlite.calibrate.statistics import AverageRange, ValueStatistics
from onnxlite.calibrate.stream import FeedSummary, check_seen, stream
from onnxlite.model import size_bytes
from onnxlite.records import Progress, no_progress
from onnxlite.samples import Samples

Array64 = NDArray[np.float64]

#: Samples that are enough for a histogram.
_ENOUGH_SAMPLES = 128
#: Weights of a large model.
_LARGE_BYTES = 1 << 26
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
#: Elements of a value that are counted at once, and of all values.
_BUFFERED_PER_VALUE, _MAX_BUFFERED = 1 << 16, 1 << 23
#: Samples whose limits are added up at once.
_MAX_BUFFERED_SAMPLES = 1 << 11


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
        np.minimum(lows, seen.lows.min(axis=1), out=lows)
        np.maximum(highs, seen.highs.max(axis=1), out=highs)
    limits = zip(wanted, lows.tolist(), highs.tolist(), strict=True)
    found = {name: Range(low, high) for name, low, high in limits if high >= low}
    check_seen(wanted, found)
    return found


def collect_statistics(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    elements: bool = True,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ValueStatistics]:
    """Run all samples once and return the statistics of each named value.

    Arguments and errors are those of `collect_ranges`. Histograms are empty without `elements`.
    """
    wanted = list(dict.fromkeys(names))

    def collect(fraction: float) -> dict[str, ValueStatistics]:
        return collect_part(
            model, wanted, samples, fraction=fraction, threads=threads, progress=progress
        )

    if not elements:
        found = collect(0.0)
        check_seen(wanted, found)
        return found
    return with_elements(collect, sampled_fraction(model, length_hint(samples)), wanted)


def sampled_fraction(model: ir.Model, count: int) -> float:
    """Fraction of feeds from which elements are taken for the histograms.

    That costs a small network as much as half of its own time, so of many samples not all give
    some. A second session then holds the weights once more: large models, whose own work is more,
    have one.

    Args:
        model: to be calibrated.
        count: of all samples; 0 where that is not known.
    """
    if count < 2 * _ENOUGH_SAMPLES or size_bytes(model) > _LARGE_BYTES:
        return 1.0
    return _ENOUGH_SAMPLES / count


def with_elements(
    collect: Callable[[float], dict[str, ValueStatistics]], fraction: float, names: Sequence[str]
) -> dict[str, ValueStatistics]:
    """Collect elements from a fraction of the feeds, or from all where a value needs that.

    Raises:
        SamplesError: a value is empty on all samples.
    """
    found = collect(fraction)
    if fraction < 1 and not all(len(seen.histogram.counts) for seen in found.values()):
        found = collect(1.0)
    check_seen(names, found)
    return found


def collect_part(
    model: ir.Model,
    names: Sequence[str],
    samples: Samples,
    *,
    fraction: float,
    first: tuple[int, int] = (0, 0),
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, ValueStatistics]:
    """Statistics of some of the feeds; a histogram is empty where none gave elements.

    Args:
        model: the float model.
        names: of distinct values.
        samples: these feeds.
        fraction: see `sampled_fraction`.
        first: index of the first of these feeds among all, and number of its first sample.
        threads: of ONNX Runtime.
        progress: called after every feed.
    """
    first_feed, first_sample = first
    accumulator = _Accumulator(len(names), first_sample)

    def sampled(index: int) -> bool:
        # Multiples of the golden ratio hit every part of 0 to 1 alike, whatever has a period.
        return (first_feed + index) * _GOLDEN_RATIO % 1.0 < fraction

    for seen in stream(model, names, samples, sampled=sampled, threads=threads, progress=progress):
        accumulator.add(seen)
    found = zip(names, accumulator.statistics(), strict=True)
    return {name: statistics for name, statistics in found if statistics is not None}


class _Accumulator:
    """Adds summaries of feeds up; some wait, because many at once cost hardly more.

    Elements are copied, so that ONNX Runtime writes the next ones into the same memory.

    Args:
        count: of values.
        first_sample: number of the first sample.
    """

    def __init__(self, count: int, first_sample: int) -> None:
        self._values = [_ValueAccumulator() for _ in range(count)]
        self._limits: list[tuple[Array64, Array64]] = []
        self._of_samples, self._next_sample = LimitsBuffer(count), first_sample
        self._elements = np.empty(min(_BUFFERED_PER_VALUE * count, _MAX_BUFFERED), np.float32)
        # Where each value's elements begin, and the last one's end: a row per feed.
        self._offsets: list[NDArray[np.int64]] = []

    def add(self, seen: FeedSummary) -> None:
        self._limits.append((seen.lows.min(axis=1), seen.highs.max(axis=1)))
        self._of_samples.add(seen.lows, seen.highs, self._next_sample, seen.whole)
        self._next_sample += seen.lows.shape[1]
        if len(self._of_samples) >= _MAX_BUFFERED_SAMPLES:
            self._add_limits()
        if not seen.samples:
            return
        flat = [sample.reshape(-1) for sample in seen.samples]
        offsets = np.cumsum([0, *map(len, flat)])
        start = int(self._offsets[-1][-1]) if self._offsets else 0
        if start + offsets[-1] > len(self._elements):
            self._add_elements()
            start = 0
            if offsets[-1] > len(self._elements):
                self._elements = np.empty(offsets[-1], np.float32)
        offsets += start
        np.concatenate(flat, out=self._elements[start : offsets[-1]])
        self._offsets.append(offsets)

    def statistics(self) -> list[ValueStatistics | None]:
        """Return the statistics of every value; None of one without elements."""
        self._add_limits()
        self._add_elements()
        return [value.statistics() for value in self._values]

    def _add_limits(self) -> None:
        if not self._limits:
            return
        lows, highs = (np.array(side) for side in zip(*self._limits, strict=True))
        for value, low, high in zip(self._values, lows.T, highs.T, strict=True):
            some = high >= low
            if some.any():
                value.add_limits(low[some], high[some])
        for value, limits in zip(self._values, self._of_samples.take(), strict=True):
            value.add_sample_limits(limits)
        self._limits = []

    def _add_elements(self) -> None:
        for index, value in enumerate(self._values):
            parts = [self._elements[at[index] : at[index + 1]] for at in self._offsets]
            elements = np.concatenate(parts) if parts else self._elements[:0]
            if len(elements):
                value.add_elements(elements)
        self._offsets = []


class _ValueAccumulator:
    """Statistics of one value so far."""

    def __init__(self) -> None:
        self._average: AverageRange | None = None
        self._range = Range(math.inf, -math.inf)
        self._histogram = Histogram.empty()
        self._limits: SampleLimits | None = None

    def add_limits(self, lows: Array64, highs: Array64) -> None:
        """Add the smallest and largest number of some feeds, float64[feeds] both."""
        new = AverageRange.over(lows, highs)
        self._average = new if self._average is None else self._average.merge(new)
        self._range = self._range.merge(Range(float(lows.min()), float(highs.max())))

    def add_sample_limits(self, new: SampleLimits | None) -> None:
        """Add the limits of some samples; None where the value had no elements."""
        if self._limits is None or new is None:
            self._limits = new if self._limits is None else self._limits
        else:
            self._limits = self._limits.merge(new)

    def add_elements(self, elements: NDArray[Any]) -> None:
        self._histogram = self._histogram.merge(Histogram.of(elements))

    def statistics(self) -> ValueStatistics | None:
        if self._average is None or self._limits is None:
            return None
        return ValueStatistics(self._range, self._average, self._histogram, self._limits)
