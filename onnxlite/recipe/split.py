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
    samples: Samples, evaluation: SamplesLike | None = None
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Calibration samples, evaluation samples, and the record of which they are.

    With `evaluation` both are used whole. Otherwise the last quarter of `samples`, at
    least 8 and at most half of them, is held out. Feeds whose batch axis is fixed stay
    whole, so the cut then moves to the next feed's start.
    """
    sizes = [(feed_size(feed, samples.inputs), _cuttable(feed, samples.inputs)) for feed in samples]
    total = sum(size for size, _ in sizes)
    if evaluation is not None:
        checked = Samples(evaluation, samples.inputs)
        count = checked.count()
        note = f"{total} samples for calibration, {count} separate ones for evaluation"
        return (
            samples,
            checked,
            SampleUse(calibration=total, evaluation=count, origin="given", note=note),
        )
    cut = total - min(max(total // 4, MIN_HELD_OUT), total // 2)
    starts = list(itertools.accumulate((size for size, _ in sizes), initial=0))
    index = next(i for i, end in enumerate(starts[1:]) if cut <= end)
    if starts[index] < cut < starts[index + 1] and not sizes[index][1]:
        cut = starts[index + 1] if index + 1 < len(sizes) else starts[index]
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
        _Window(samples, 0, cut),
        _Window(samples, cut, total),
        SampleUse(calibration=cut, evaluation=total - cut, origin="held-out", note=note),
    )


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
