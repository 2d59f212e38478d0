"""Hold-out split: samples to check a result on that nothing was fitted to.

A figure on samples that weights, ranges or a choice were fitted to flatters the result. Two
rules say what is held out, both of them deterministic:

    EveryKth(4)          every fourth item, spread over the whole set
    LastFraction(1/4)    the end of the set, as a whole

Items are feeds (`split_feeds`), rows (`EveryKth.mask`), or single samples of a stream whose feeds
can be cut (`SampleStream`). The record of a split, `records.HoldOut`, goes into reports.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlite.inputs import Feed, cut, feed_size, is_cuttable
from onnxlite.records import HoldOut
from onnxlite.samples import Bound, Samples

#: One sample of so many is held out singly, at least and at most so many, none of too few.
_SAMPLES_PER_HELD_OUT, _MIN_HELD_OUT, _MAX_HELD_OUT = 16, 4, 16
_MIN_SAMPLES = 32


@dataclass(frozen=True)
class EveryKth:
    """Hold out every k-th item.

    Attributes:
        every: k.
        offset: position of the item within each k; None is the last one.
        minimum: with fewer items none is held out; None is `offset + 1`. If it is less than
            that, the last item is held out of few.
    """

    every: int
    offset: int | None = None
    minimum: int | None = None

    @property
    def position(self) -> int:
        """Position within each k items of the one that is held out."""
        return self.every - 1 if self.offset is None else self.offset

    def enough(self, count: int) -> bool:
        """Tell whether any of `count` items is held out."""
        return count >= (self.position + 1 if self.minimum is None else self.minimum)

    def mask(self, count: int) -> NDArray[np.bool_]:
        """The items held out of `count`, bool[count]."""
        if not self.enough(count):
            return np.zeros(count, np.bool_)
        return np.equal(np.arange(count) % self.every, min(self.position, count - 1))

    def __str__(self) -> str:
        return f"every {_ordinal(self.every)} feed"


@dataclass(frozen=True)
class LastFraction:
    """Hold out the end of a set.

    Attributes:
        fraction: of the items, rounded down.
        minimum: hold out at least so many, but never more than `largest_fraction`.
        maximum: hold out at most so many; None is no limit.
        largest_fraction: of the items.
    """

    fraction: float = 0.25
    minimum: int = 1
    maximum: int | None = None
    largest_fraction: float = 0.5

    def count(self, total: int) -> int:
        """Number of items held out of `total`."""
        wanted = max(int(total * self.fraction), self.minimum)
        wanted = wanted if self.maximum is None else min(wanted, self.maximum)
        return min(wanted, int(total * self.largest_fraction))

    def mask(self, count: int) -> NDArray[np.bool_]:
        """The items held out of `count`, bool[count]."""
        return np.arange(count) >= count - self.count(count)

    def __str__(self) -> str:
        return f"the last {self.fraction:.0%} of the feeds"


Rule = EveryKth | LastFraction


@dataclass(frozen=True)
class FeedSplit:
    """A stream of feeds in two parts.

    Attributes:
        fitted: the feeds to fit to, re-iterable.
        held_out: the others; the same ones as `fitted` where there were too few to split.
        record: for the report.
    """

    fitted: Samples
    held_out: tuple[Feed, ...]
    record: HoldOut


def split_feeds(samples: Samples, rule: Rule, *, at_most: int | None = None) -> FeedSplit:
    """Hold feeds out of a stream, and keep them; those to fit to are read lazily.

    Args:
        samples: the stream.
        rule: which feeds are held out. Where it holds none out, all feeds are fitted to, and
            the first `at_most` of them are checked on as well.
        at_most: keep so many of the feeds held out; the others are neither fitted to nor kept.
    """
    fitted, held_out = split_stream(samples, rule)
    kept = tuple(itertools.islice(samples if held_out is None else held_out, at_most))
    record = HoldOut(rule=str(rule), feeds=len(kept), shared=held_out is None)
    return FeedSplit(fitted, kept, record)


def split_stream(samples: Samples, rule: Rule) -> tuple[Samples, Samples | None]:
    """Split a stream into feeds to fit to and feeds held out; both are read lazily.

    Returns:
        Both parts, or the whole stream and None where the rule holds nothing out.
    """
    # Of every k-th feed the first few tell whether there are enough, and which one it is.
    most = rule.every if isinstance(rule, EveryKth) else None
    seen = sum(1 for _ in itertools.islice(samples, most))
    mask = rule.mask(seen)
    if not mask.any() or mask.all():
        return samples, None
    parts = (_FeedSelection(samples, mask, held_out) for held_out in (False, True))
    fitted, held_out = (Samples(part, samples.inputs) for part in parts)
    return fitted, held_out


@dataclass(frozen=True)
class _FeedSelection:
    """Feeds of a stream that are held out, or the others; re-iterable and read lazily.

    Attributes:
        samples: the stream.
        mask: whether each feed is held out, bool[feeds]; it repeats.
        held_out: which ones to give.
    """

    samples: Samples
    mask: NDArray[np.bool_]
    held_out: bool

    def __iter__(self) -> Iterator[Feed]:
        for index, feed in enumerate(self.samples):
            if self.mask[index % len(self.mask)] == self.held_out:
                yield feed


class SampleStream:
    """A stream of samples, by number, that can be cut at any sample, also inside of a feed.

    Feeds whose batch axis is fixed stay whole. Parts are read lazily.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._sizes = [
            (feed_size(feed, samples.inputs), is_cuttable(feed, samples.inputs)) for feed in samples
        ]
        self._starts = list(itertools.accumulate((size for size, _ in self._sizes), initial=0))

    @property
    def total(self) -> int:
        """Number of samples."""
        return self._starts[-1]

    def nearest_cut(self, cut: int) -> int:
        """Return `cut`, or the next place where no feed is cut that must stay whole."""
        starts = self._starts
        index = next(i for i, end in enumerate(starts[1:]) if cut <= end)
        if starts[index] < cut < starts[index + 1] and not self._sizes[index][1]:
            return starts[index + 1] if index + 1 < len(self._sizes) else starts[index]
        return cut

    def between(self, start: int, stop: int) -> _SampleRange:
        """The samples from `start` to before `stop`, re-iterable."""
        return _SampleRange(self._samples, start, stop)

    def feed_of(self, number: int) -> range:
        """Numbers of all samples in the feed of a sample."""
        index = bisect.bisect_right(self._starts, number) - 1
        return range(self._starts[index], self._starts[index + 1])

    def unit_of(self, number: int) -> range:
        """Numbers of the samples that go with a sample: itself, or a feed that stays whole."""
        index = bisect.bisect_right(self._starts, number) - 1
        return range(number, number + 1) if self._sizes[index][1] else self.feed_of(number)

    def spread(self, count: int) -> list[int]:
        """Numbers of `count` samples, evenly spread; whole feeds where they cannot be cut."""
        numbers = {
            other
            for index in range(1, count + 1)
            for other in self.unit_of(index * self.total // count - 1)
        }
        return sorted(numbers)

    def single(self, numbers: Iterable[int]) -> list[Feed]:
        """Feeds of one sample each, by number; feeds that stay whole are given once."""
        wanted = {self.unit_of(number).start: self.unit_of(number) for number in numbers}
        return [
            feed for start in sorted(wanted) for feed in self.between(start, wanted[start].stop)
        ]

    def without(self, numbers: Iterable[int]) -> Samples:
        """All other samples; feeds that stay whole are left out with any of their samples."""
        dropped = {other for number in numbers for other in self.unit_of(number)}
        return Samples(_OtherSamples(self._samples, frozenset(dropped)), self._samples.inputs)


def hold_out_candidates(stream: SampleStream) -> list[int]:
    """Choose single samples to hold out, by number, evenly spread; none of fewer than 32."""
    if stream.total < _MIN_SAMPLES:
        return []
    wanted = stream.total // _SAMPLES_PER_HELD_OUT
    found = stream.spread(min(max(wanted, _MIN_HELD_OUT), _MAX_HELD_OUT))
    # Batches that stay whole may be too large a part of the samples.
    return found if 2 * len(found) <= stream.total else []


@dataclass(frozen=True)
class _OtherSamples:
    """The samples of a stream but some, re-iterable, dropped lazily."""

    samples: Samples
    dropped: frozenset[int]

    def __iter__(self) -> Iterator[Feed]:
        position = 0
        for feed in self.samples:
            size = feed_size(feed, self.samples.inputs)
            kept = [i for i in range(size) if position + i not in self.dropped]
            position += size
            if len(kept) == size:
                yield feed
            elif kept:
                yield cut(feed, self.samples.inputs, kept)


class _SampleRange(Bound):
    """The samples from `start` to `stop` of a stream, re-iterable, cut lazily."""

    def __init__(self, samples: Samples, start: int, stop: int) -> None:
        self._samples, self._start, self._stop = samples, start, stop
        self.inputs = samples.inputs

    def __iter__(self) -> Iterator[Feed]:
        position = 0
        for feed in self._samples:
            size = feed_size(feed, self.inputs)
            first = max(self._start - position, 0)
            last = min(self._stop - position, size)
            position += size
            if (first, last) == (0, size):
                yield feed
            elif first < last:
                yield cut(feed, self.inputs, slice(first, last))
            if position >= self._stop:
                return


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth", 5: "fifth", 8: "eighth"}.get(
        number, f"{number}th"
    )
