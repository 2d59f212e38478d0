"""Calibration and evaluation samples that never overlap.

Where the caller gives one set, its end is held out: fidelity measured on samples that a
step was fitted to would flatter the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import msgspec

from onnxlite.samples import Feed, InputSpec, Samples, SamplesLike, feed_size

#: From this number of samples on, a quarter of them leaves at least as many held out.
MIN_HELD_OUT = 8


class SampleUse(msgspec.Struct, frozen=True, kw_only=True):
    """Which samples a run used for what.

    Attributes:
        calibration: number of samples the steps could use.
        evaluation: number of samples that fidelity was measured on.
        origin: `"given"` evaluation samples, the `"held-out"` end of the only set, the
            `"shared"` single sample that is both, or `"generated"` inputs.
        note: the same in one sentence.
    """

    calibration: int
    evaluation: int
    origin: Literal["given", "held-out", "shared", "generated"]
    note: str


def split(
    samples: Samples, evaluation: SamplesLike | None = None, *, calibration: int | None = None
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Calibration samples, evaluation samples, and the record of which they are.

    With `evaluation` both are used whole. Otherwise the last quarter of `samples`, at
    least 8 and at most half of them, is held out. Feeds whose batch axis is fixed stay
    whole, so the cut then moves to the next feed's start. With `calibration` so many of the
    samples, from the first on, are for the steps, and those behind them are held out.
    """
    whole = Windows(samples)
    total = whole.total
    cut = total if calibration is None else whole.cut_near(min(calibration, total))
    if evaluation is not None:
        checked = Samples(evaluation, samples.inputs)
        count = checked.count()
        note = f"{cut} samples for calibration, {count} separate ones for evaluation"
        return (
            samples if cut == total else whole.between(0, cut),
            checked,
            SampleUse(calibration=cut, evaluation=count, origin="given", note=note),
        )
    if calibration is None:
        cut = whole.cut_near(total - min(max(total // 4, MIN_HELD_OUT), total // 2))
    if cut in (0, total):
        note = (
            f"the {total} samples cannot be split, so calibration and evaluation share them: "
            "fidelity is flattered; give evaluation samples"
        )
        return (
            samples,
            samples,
            SampleUse(calibration=total, evaluation=total, origin="shared", note=note),
        )
    note = f"the last {total - cut} of {total} samples are held out for evaluation"
    return (
        whole.between(0, cut),
        whole.between(cut, total),
        SampleUse(calibration=cut, evaluation=total - cut, origin="held-out", note=note),
    )


class Windows:
    """A stream of samples that may be cut into parts; the parts are read lazily."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._sizes = [
            (feed_size(feed, samples.inputs), _cuttable(feed, samples.inputs)) for feed in samples
        ]
        #: Number of samples.
        self.total = sum(size for size, _ in self._sizes)

    def cut_near(self, cut: int) -> int:
        """Where the stream can be cut: at `cut`, or next to it where a feed must stay whole."""
        sizes = self._sizes
        starts = list(itertools.accumulate((size for size, _ in sizes), initial=0))
        index = next(i for i, end in enumerate(starts[1:]) if cut <= end)
        if starts[index] < cut < starts[index + 1] and not sizes[index][1]:
            return starts[index + 1] if index + 1 < len(sizes) else starts[index]
        return cut

    def between(self, start: int, stop: int) -> SamplesLike:
        """The samples from `start` to before `stop`, re-iterable."""
        return _Window(self._samples, start, stop)


class _Window:
    """The samples from `start` to `stop` of a stream, re-iterable, cut lazily."""

    def __init__(self, samples: Samples, start: int, stop: int) -> None:
        self._samples, self._start, self._stop = samples, start, stop

    def __iter__(self) -> Iterator[Feed]:
        position = 0
        for feed in self._samples:
            size = feed_size(feed, self._samples.inputs)
            first = max(self._start - position, 0)
            last = min(self._stop - position, size)
            position += size
            if (first, last) == (0, size):
                yield feed
            elif first < last:
                yield {name: a[first:last] if a.ndim else a for name, a in feed.items()}
            if position >= self._stop:
                return


def _cuttable(feed: Feed, inputs: tuple[InputSpec, ...]) -> bool:
    """Whether every input has a dynamic first axis that counts the feed's samples."""
    size = feed_size(feed, inputs)
    return all(
        feed[spec.name].ndim == 0
        or (len(feed[spec.name]) == size and not isinstance((spec.shape or (None,))[0], int))
        for spec in inputs
    )
