"""Calibration samples to choose by, and others to check the choice on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from onnxlite.samples import Feed, Samples

#: One feed of so many is held out.
_EVERY = 4
#: More feeds held out tell little more.
_MOST = 16


def apart(samples: Samples) -> tuple[Samples, tuple[Feed, ...]]:
    """The samples without every fourth feed, and those feeds, 16 at most.

    A single feed is both.
    """
    held_out = tuple(islice(_Part(samples, held_out=True), _MOST))
    if not held_out:
        return samples, (next(iter(samples)),)
    return Samples(_Part(samples, held_out=False), samples.inputs), held_out


class _Part:
    """Some feeds of a stream, re-iterable."""

    def __init__(self, samples: Samples, *, held_out: bool) -> None:
        self._samples, self._held_out = samples, held_out

    def __iter__(self) -> Iterator[Feed]:
        for index, feed in enumerate(self._samples):
            if (index % _EVERY == 1) == self._held_out:
                yield feed
