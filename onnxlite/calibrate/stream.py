"""One pass over the samples: for every feed, a summary of every named value."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.taps import tap_summaries
from onnxlite.errors import SamplesError
from onnxlite.graph import describe
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Feed, Samples

Array64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeedSummary:
    """Summary of all values on one feed, in the order of their names.

    Attributes:
        lows: float64[values], the smallest number of each; inf of a value without elements.
        highs: float64[values], the largest; -inf of a value without elements.
        samples: some elements of each, float32 of any shape; None where not asked for.
    """

    lows: Array64
    highs: Array64
    samples: list[NDArray[Any]] | None


def stream(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    sampled: Callable[[int], bool],
    threads: int | None,
    progress: Progress,
) -> Iterator[FeedSummary]:
    """Run every feed and yield a summary of the named values, which are distinct.

    Args:
        model: the float model.
        names: of its values.
        samples: the data.
        sampled: tells by a feed's index whether elements are taken from it.
        threads: of ONNX Runtime.
        progress: called after every feed.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    wanted = list(names)
    probes: dict[bool, _Probe] = {}
    total = samples.count() if progress is not no_progress else 0
    for index, feed in enumerate(samples):
        detailed = sampled(index)
        if detailed not in probes:
            probes[detailed] = _Probe(model, wanted, sample=detailed, threads=threads)
        yield probes[detailed].run(feed)
        progress("calibrate", index + 1, total)


class _Probe:
    """A session that measures, with elements of values or without."""

    def __init__(
        self, model: ir.Model, names: list[str], *, sample: bool, threads: int | None
    ) -> None:
        probe, taps = tap_summaries(model, names, sample=sample)
        self._model, self._names = model, list(taps)
        self._session = Session(probe, threads=threads)
        self._known = np.array([tap.known_low for tap in taps.values()])
        self._measured = np.array([tap.low is not None for tap in taps.values()], bool)
        self._lows = [tap.low for tap in taps.values() if tap.low]
        self._highs = [tap.high for tap in taps.values()]
        self._samples = [tap.sample for tap in taps.values() if tap.sample] if sample else None

    def run(self, feed: Feed) -> FeedSummary:
        outputs = self._session.run(feed)
        lows = self._known.copy()
        lows[self._measured] = [outputs[output].item() for output in self._lows]
        highs = np.array([outputs[output].item() for output in self._highs])
        # Reductions of no elements give these.
        empty = (highs == -np.inf) & (~self._measured | (lows == np.inf))
        lows[empty] = np.inf
        good = empty | (np.isfinite(lows) & np.isfinite(highs))
        if not good.all():
            wrong = int(np.argmin(good))
            name = self._names[wrong]
            raise SamplesError(
                f"value {name!r} ({_origin(self._model, name)}) is {highs[wrong]} on a "
                "calibration sample: check the preprocessing, or the model overflows"
            )
        elements = None
        if self._samples is not None:
            elements = [outputs[output] for output in self._samples]
        return FeedSummary(lows, highs, elements)


def check_seen(names: Iterable[str], seen: Container[str]) -> None:
    """Raise `SamplesError` if a value had no elements on any sample."""
    for name in names:
        if name not in seen:
            raise SamplesError(
                f"value {name!r} is empty on every calibration sample: give samples on which the "
                "model computes something there, or exclude the layers that read it"
            )


def _origin(model: ir.Model, name: str) -> str:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return f"output of {describe(node)}"
    return "model input"
