"""Latency of one model against another: interleaved pairs in one process.

A machine's speed drifts by more than two models differ, so absolute times of separate
runs say little. Here every round times both models, in the order A B B A, and the
result is the ratio within the rounds. With one thread the processor time of that thread is
taken, which is the latency of an idle machine: what else runs meanwhile does not count.
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import onnx_ir as ir
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.analysis.shapes import generated_feed
from onnxlite.batch_axis import batch_specs, bind
from onnxlite.errors import ExecutionError, OptionError
from onnxlite.evaluate.peak_memory import PeakMemory, peak_memory
from onnxlite.inputs import BatchAxis, Feed, input_specs, trim
from onnxlite.machine import Machine, machine
from onnxlite.model import ModelLike, PlainModel, load, plain_model
from onnxlite.options import Options, Seed
from onnxlite.records import Report
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.save import save
from onnxlite.step import StepContext, from_options
from onnxlite.timing import InterleavedTimer, current_timer

logger = logging.getLogger(__name__)

_MAX_FEEDS = 8
_MIN_STARTS, _MAX_STARTS = 2, 10
_RESAMPLES = 2000


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Candidate time over reference time; below 1 the candidate is faster.

    Attributes:
        median: over the rounds.
        low: lower end of its 95% bootstrap interval (Efron 1979, percentile method).
        high: upper end.
        minimum: shortest time of the candidate over shortest of the reference.
    """

    median: float
    low: float
    high: float
    minimum: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One model's absolute figures, which hold for the recorded machine only.

    Attributes:
        median_ms: median latency of one run, in milliseconds.
        minimum_ms: the shortest.
        start_ms: median time to make a session from the file, in milliseconds.
        memory: peak memory of a process that runs only this model; None if not measured.
    """

    median_ms: float
    minimum_ms: float
    start_ms: float
    memory: PeakMemory | None = None


class Latency(Report, frozen=True, kw_only=True):
    """Result of `benchmark`.

    Attributes:
        ratio: candidate over reference.
        reference: absolute figures of the reference.
        candidate: absolute figures of the candidate.
        rounds: number of interleaved rounds A B B A.
        threads: of ONNX Runtime; None is all cores.
        inputs: the shapes that were run.
        machine: what it was measured on.
        notes: what could not be measured, and why.
        seconds: wall-clock time of the measurement.
    """

    ratio: Ratio
    reference: Timing
    candidate: Timing
    rounds: int
    threads: int | None
    inputs: dict[str, tuple[int, ...]]
    machine: Machine
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        threads = "all cores" if self.threads is None else f"{self.threads} thread(s)"
        return (
            f"latency ratio {self.ratio} ({self.reference.median_ms:.3f} -> "
            f"{self.candidate.median_ms:.3f} ms, {self.rounds} rounds, {threads})"
        )


class BenchmarkOptions(Options, frozen=True, kw_only=True):
    """Options of `benchmark`."""

    threads: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Threads of ONNX Runtime that one run may use; None takes all cores."),
    ] = 1
    batch_size: Annotated[
        int, Meta(ge=1, description="Samples per run where the models' batch axis is dynamic.")
    ] = 1
    rounds: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Rounds A B B A; None does as many as the time allows, 5 to 500.",
            ),
        ]
        | None
    ) = None
    time_limit_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds for rounds and session starts, more if 5 rounds take more.",
        ),
    ] = 10.0
    memory: Annotated[
        bool, Meta(description="Also measure peak memory, in a child process per model.")
    ] = True
    seed: Seed = 0


@from_options(
    BenchmarkOptions,
    runtime=(
        "batch_axis",
        "progress",
    ),
)
def benchmark(
    reference: ModelLike,
    candidate: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: BenchmarkOptions,
    context: StepContext,
) -> Latency:
    """Measure the latency of `candidate` relative to `reference`, in interleaved pairs.

    Args:
        reference: the model to compare with.
        candidate: the model to measure.
        samples: real inputs, of which at most 8 batches are used in turn; without them
            generated ones (the time of most operators does not depend on the values).

    Raises:
        OptionError: a wrong option.
        SamplesError: the samples do not fit the models.
        ExecutionError: ONNX Runtime does not run one of the models on these inputs.
    """
    threads, seed = options.threads, options.seed
    reference, candidate = plain_model(reference), plain_model(candidate)
    began = time.perf_counter()
    first, second = load(reference), load(candidate)
    feeds = _feeds(first, samples, context.batch_axis, options)
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="onnxlite-") as directory:
        paths = (
            _on_disk(reference, first, Path(directory) / "reference.onnx"),
            _on_disk(candidate, second, Path(directory) / "candidate.onnx"),
        )
        starts = _start_times(paths, threads, options.time_limit_s / 5)
        sessions = (_timed(paths[0], threads), _timed(paths[1], threads))
        pairs = [
            (feed, sessions[1].suited(_renamed(feed, sessions[0], sessions[1]))) for feed in feeds
        ]
        times = (current_timer() or InterleavedTimer()).times(
            sessions,
            pairs,
            rounds=options.rounds,
            budget_s=options.time_limit_s * 4 / 5,
            progress=context.progress,
        )
        measured = zip(paths, pairs[0], strict=True) if options.memory else ()
        memories = [_memory(path, feed, threads, notes) for path, feed in measured] or [None, None]
    timings = [
        Timing(
            median_ms=float(np.median(times[:, i])) * 1e3,
            minimum_ms=float(times[:, i].min()) * 1e3,
            start_ms=float(np.median(starts[:, i])) * 1e3,
            memory=memories[i],
        )
        for i in (0, 1)
    ]
    return Latency(
        ratio=_ratio(times, seed),
        reference=timings[0],
        candidate=timings[1],
        rounds=len(times),
        threads=threads,
        inputs={name: tuple(array.shape) for name, array in feeds[0].items()},
        machine=machine(),
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - began,
    )


def _feeds(
    model: ir.Model, samples: SamplesLike | None, given: BatchAxis | None, options: BenchmarkOptions
) -> list[Feed]:
    """The first batches of the samples, or a generated one."""
    batch, samples = options.batch_size, bind(model, samples, given)
    if samples is None:
        inputs = batch_specs(model, given)
        return [generated_feed(model, inputs, batch=batch, seed=options.seed)]
    stream = Samples(samples, input_specs(model), batch_size=batch)
    feeds = itertools.islice(stream, _MAX_FEEDS)
    return [trim(feed, stream.inputs, batch) or feed for feed in feeds]


def _on_disk(source: PlainModel, model: ir.Model, path: Path) -> Path:
    """The file of a model; one that lives in memory is written to `path`."""
    if isinstance(source, str | os.PathLike):
        return Path(source)
    return save(model, path)


def _timed(path: Path, threads: int | None) -> Session:
    """A session that runs what is shipped, random operators included."""
    return Session(path, threads=threads, random="drawn")


def _renamed(feed: Feed, first: Session, second: Session) -> Feed:
    """Name a feed's arrays as the candidate does, by position if names differ."""
    if set(first.input_names) == set(second.input_names):
        return feed
    if len(first.input_names) != len(second.input_names):
        raise OptionError(
            f"the models take different inputs: {list(first.input_names)} and "
            f"{list(second.input_names)}"
        )
    names = dict(zip(first.input_names, second.input_names, strict=True))
    return {names[name]: array for name, array in feed.items()}


def _start_times(
    paths: tuple[Path, Path], threads: int | None, budget_s: float
) -> NDArray[np.float64]:
    """Seconds to make a session, float64[starts, 2], in the order A B B A."""
    times: list[list[float]] = []
    deadline = time.perf_counter() + budget_s
    while len(times) < _MIN_STARTS or (len(times) < _MAX_STARTS and time.perf_counter() < deadline):
        order = (0, 1) if len(times) % 2 == 0 else (1, 0)
        row = [0.0, 0.0]
        for i in order:
            start = time.perf_counter()
            _timed(paths[i], threads)
            row[i] = time.perf_counter() - start
        times.append(row)
    return np.array(times)


def _ratio(times: NDArray[np.float64], seed: int) -> Ratio:
    """Median over the rounds of the ratio of `times[rounds, 2]`, with interval."""
    ratios = times[:, 1] / times[:, 0]
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, size=(_RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Ratio(
        median=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        minimum=float(times[:, 1].min() / times[:, 0].min()),
    )


def _memory(path: Path, feed: Feed, threads: int | None, notes: list[str]) -> PeakMemory | None:
    try:
        return peak_memory(path, feed, threads=threads)
    except ExecutionError as error:
        logger.info("%s", error)
        notes.append(str(error))
        return None
