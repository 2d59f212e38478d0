"""Time limit of a search: its deadline, and the training steps that fit in it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.cache import Cache
from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed
from onnxlite.machine import is_busy
from onnxlite.records import Progress
from onnxlite.runtime import Session
from onnxlite.samples import SamplesLike
from onnxlite.search.candidates import can_tune
from onnxlite.search.trial_cache import CachedStepTime, step_time_key
from onnxlite.timing import run_seconds

logger = logging.getLogger(__name__)

#: Part of the time limit that is kept for the final check.
RESERVED_FRACTION, MAX_RESERVED_S = 0.2, 20.0
#: Numbers of training steps, the first of which that fits is taken. Fewer are worth nothing.
TRAINING_STEPS = (4000, 2000, 1000)
#: Time of a step relative to one of the whole model, when channels are removed.
PRUNED_STEP_FRACTION = 0.4
#: Largest part of the time limit for one training; the limit where none is given.
TRAINING_FRACTION, DEFAULT_LIMIT_S = 0.3, 3600.0
#: Default limit of a search: a time for any model, and so many runs on all samples.
LEAST_LIMIT_S, PASSES, MOST_LIMIT_S = 90.0, 60, 1800.0
#: A step takes longer than so many runs of the model (32 samples, forward and backward).
MIN_RUNS_PER_STEP = 16


class TimeUp(BaseException):
    """Raised by a progress callback to end a step early, because time is up.

    Like `KeyboardInterrupt` it must not be taken for an error of what it interrupts.
    """


class Deadline:
    """Passes progress on, with the time left and the best result, until time is up.

    Args:
        start: when the search began, by `time.perf_counter`.
        limit_s: seconds that it may take; None is no limit.
        progress: called with every progress.

    Attributes:
        trials: number of trials that ended.
        best: the best of them, in words.
    """

    def __init__(self, start: float, limit_s: float | None, progress: Progress) -> None:
        self.start, self.limit_s = start, limit_s
        self.trials, self.best = 0, "nothing yet"
        self._end: float | None = None
        if limit_s is not None and math.isfinite(limit_s):
            self._end = start + limit_s - min(limit_s * RESERVED_FRACTION, MAX_RESERVED_S)
        self._progress = progress

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.start

    def progress(self, stage: str, done: int, total: int) -> None:
        """Pass progress of a trial on; raise `TimeUp` when time is up."""
        self.check()
        left = ""
        if self._end is not None:
            left = f", {self._end - time.perf_counter():.0f} s left"
        self._progress(f"{stage} (trial {self.trials + 1}; {self.best}{left})", done, total)

    def final_s(self, fraction: float) -> float:
        """Return a fraction of the limit, in seconds; infinite without a limit."""
        return math.inf if self._end is None else fraction * (self.limit_s or 0.0)

    def check(self) -> None:
        """Raise `TimeUp` when time is up."""
        if self._end is not None and time.perf_counter() > self._end:
            raise TimeUp

    def final_progress(self, stage: str, done: int, total: int) -> None:
        """Pass progress of the final check on, which is not interrupted."""
        self._progress(f"{stage} (final check; {self.best})", done, total)


def default_limit_s(original: ir.Model, feed: Feed, samples: int) -> float:
    """Return the time limit of a search for which none was given, in seconds.

    Args:
        original: the model.
        feed: one sample.
        samples: number of all samples; a search runs each some hundred times.
    """
    run_s = run_seconds(Session(original, threads=1), feed)
    return round(min(LEAST_LIMIT_S + PASSES * run_s * samples, MOST_LIMIT_S))


def training_steps(
    original: ir.Model,
    digest: str,
    calibration: SamplesLike,
    cache: Cache,
    *,
    limit_s: float | None,
    latencies_ms: Sequence[float],
) -> int:
    """Choose the number of training steps; 0 without torch, or without time for enough of them.

    Args:
        original: the model to learn from, about which is trained.
        digest: its hash.
        calibration: training samples.
        cache: holds the time of a step, so that a search that was killed continues alike.
        limit_s: seconds of the search; None is no limit.
        latencies_ms: of the model and others made of it.
    """
    if not can_tune():
        return 0
    longest_s = TRAINING_FRACTION * (limit_s or DEFAULT_LIMIT_S) / PRUNED_STEP_FRACTION
    # Where not even the fastest step would do, none is measured: that itself takes time.
    if MIN_RUNS_PER_STEP * max(latencies_ms, default=0.0) / 1e3 * TRAINING_STEPS[-1] > longest_s:
        return 0
    key = step_time_key(digest)
    measured = cache.read(key, CachedStepTime)
    if measured is None:
        measured = CachedStepTime(_step_seconds(original, calibration))
        cache.write(key, measured, busy=is_busy())
    step_s = measured.seconds
    if step_s is None:
        return 0
    return next((steps for steps in TRAINING_STEPS if steps * step_s <= longest_s), 0)


def _step_seconds(original: ir.Model, calibration: SamplesLike) -> float | None:
    """Measure one training step; None if the model cannot be trained."""
    # Torch is not always there, and takes seconds to import.
    from onnxlite.tune.step_timing import step_seconds

    try:
        return step_seconds(original, calibration)
    except OnnxliteError as error:
        logger.info("nothing is trained: %s", error)
    except MemoryError:
        raise
    except Exception as error:
        # Like a step that breaks on an unusual model: the search continues without it.
        logger.warning(
            "the model does not run in torch, and nothing is trained; please report it (%s: %s)",
            type(error).__name__,
            error,
        )
    return None
