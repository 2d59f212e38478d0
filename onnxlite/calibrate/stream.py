"""One pass over the samples: for every feed, a summary of every named value."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.taps import tap_summaries
from onnxlite.errors import OVERFLOW_ADVICE, SamplesError
from onnxlite.graph import describe
from onnxlite.inputs import Feed, InputSpec, feed_size
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Samples

Array64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeedSummary:
    """Summary of all values on one feed, in the order of their names.

    Attributes:
        lows: float64[values, samples], the smallest number of each; inf without elements.
        highs: float64[values, samples], the largest; -inf without elements.
        whole: bool[values], of those that do not show their samples apart: the limits of the feed
            stand for its first sample, and all others have no elements.
        samples: some elements of each, float32 of any shape; None where not asked for.
    """

    lows: Array64
    highs: Array64
    whole: NDArray[np.bool_]
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
            probes[detailed] = _Probe(model, wanted, samples.inputs, detailed, threads)
        yield probes[detailed].run(feed, feed_size(feed, samples.inputs))
        progress("calibrate", index + 1, total)


class _Probe:
    """A session that measures, with elements of values or without."""

    def __init__(
        self,
        model: ir.Model,
        names: list[str],
        inputs: Sequence[InputSpec],
        sample: bool,
        threads: int | None,
    ) -> None:
        probe, taps = tap_summaries(model, names, inputs, sample=sample)
        self._model, self._names = model, list(taps)
        self._session = Session(probe, threads=threads)
        self._known = np.array([tap.known_low for tap in taps.values()])
        self._measured = np.array([tap.low is not None for tap in taps.values()], bool)
        self._lows = [tap.low for tap in taps.values() if tap.low]
        self._highs = [tap.high for tap in taps.values()]
        self._samples = [tap.sample for tap in taps.values() if tap.sample] if sample else None

    def run(self, feed: Feed, size: int) -> FeedSummary:
        outputs = self._session.run(feed)
        whole = np.zeros(len(self._names), np.bool_)
        highs = np.full((len(self._names), size), -np.inf)
        _write(highs, range(len(highs)), [outputs[name] for name in self._highs], whole, np.max)
        lows = np.where(highs > -np.inf, self._known[:, None], np.inf)
        measured = np.flatnonzero(self._measured).tolist()
        lows[measured] = np.inf
        _write(lows, measured, [outputs[name] for name in self._lows], whole, np.min)
        # Reductions of no elements give these.
        empty = (highs == -np.inf) & (lows == np.inf)
        good = empty | (np.isfinite(lows) & np.isfinite(highs))
        if not good.all():
            wrong, sample = np.argwhere(~good)[0].tolist()
            name, number = self._names[wrong], highs[wrong, sample]
            raise SamplesError(
                f"value {name!r} ({_origin(self._model, name)}) is {number} on a "
                f"calibration sample: {OVERFLOW_ADVICE}"
            )
        elements = None
        if self._samples is not None:
            elements = [outputs[output] for output in self._samples]
        return FeedSummary(lows, highs, whole, elements)


def _write(
    limits: Array64,
    rows: Iterable[int],
    measured: Sequence[NDArray[Any]],
    whole: NDArray[np.bool_],
    reduce: Callable[[NDArray[Any]], Any],
) -> None:
    """Write limits of samples into rows; those of whole feeds into the first column."""
    size = limits.shape[1]
    for row, numbers in zip(rows, measured, strict=True):
        if numbers.ndim == 1 and len(numbers) == size:
            limits[row] = numbers
        elif numbers.size:
            whole[row] = size > 1
            limits[row, 0] = reduce(numbers)


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
