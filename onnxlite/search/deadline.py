"""Time limit of a search: its deadline, and the training steps that fit in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec
import onnx_ir as ir

from onnxlite.errors import OnnxliteError
from onnxlite.machine import machine
from onnxlite.records import Progress
from onnxlite.samples import SamplesLike
from onnxlite.search.candidates import can_tune
from onnxlite.search.executor import TimeUp
from onnxlite.search.trial_cache import Store, code_digest, key_of

logger = logging.getLogger(__name__)


#: Of the time limit, kept for the final check.
_RESERVED_SHARE, _RESERVED_MOST_S = 0.2, 20.0


class Deadline:
    """Passes progress on, with the time left and the best so far, until time is up.

    Args:
        start: when the search began, by `time.perf_counter`.
        limit: seconds that it may take; None is without end.
        progress: who is told.
    """

    def __init__(self, start: float, limit: float | None, progress: Progress) -> None:
        self.start, self.limit = start, limit
        #: Number of trials that are done, and the best of them in words.
        self.trials, self.best = 0, "nothing yet"
        self._deadline: float | None = None
        if limit is not None:
            self._deadline = start + limit - min(limit * _RESERVED_SHARE, _RESERVED_MOST_S)
        self._told = progress

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def final(self, stage: str, done: int, total: int) -> None:
        """Pass progress of the final check on, which is not interrupted."""
        self._told(f"{stage} (final check; {self.best})", done, total)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Pass progress on; raise `TimeUp` when time is up."""
        left = ""
        if self._deadline is not None:
            seconds = self._deadline - time.perf_counter()
            if seconds < 0:
                raise TimeUp
            left = f", {seconds:.0f} s left"
        self._told(f"{stage} (trial {self.trials + 1}; {self.best}{left})", done, total)


_STEPS = (4000, 2000, 1000)
#: A step takes so much of one of the whole model, as channels are gone, and a course at most
#: this share of the time there is; without a limit, of that many seconds.
_STEP_LEFT, _SHARE, _TIME_S = 0.4, 0.3, 3600.0
#: A step takes longer than so many runs of the model (32 samples, there and back).
_LEAST_RUNS = 16


class _Pace(msgspec.Struct, frozen=True):
    """The seconds of one step of training; None if the model cannot be trained."""

    seconds: float | None


def training_steps(
    original: ir.Model,
    digest: str,
    calibration: SamplesLike,
    store: Store,
    *,
    limit: float | None,
    latencies_ms: Sequence[float],
) -> int | None:
    """The steps of a course; None where there is no torch, or no time for one that is of use.

    Args:
        original: what answers, and about what is trained.
        digest: its hash.
        calibration: what is trained on.
        store: keeps what was measured, so that a search that was killed goes on alike.
        limit: seconds of the search; None for any.
        latencies_ms: of the model and others made of it.
    """
    if not can_tune():
        return None
    longest_s = _SHARE * (limit or _TIME_S) / _STEP_LEFT
    # Where not even the fastest step would do, none is measured: that itself takes time.
    if _LEAST_RUNS * max(latencies_ms, default=0.0) / 1e3 * _STEPS[-1] > longest_s:
        return None
    key = key_of("pace", digest, str(machine()), code_digest())
    pace = store.record(key, _Pace)
    if pace is None:
        pace = _Pace(_step_seconds(original, calibration))
        store.keep(key, pace)
    if pace.seconds is None:
        return None
    return next((steps for steps in _STEPS if steps * pace.seconds <= longest_s), None)


def _step_seconds(original: ir.Model, calibration: SamplesLike) -> float | None:
    """How long a step of training takes here; None if the model cannot be trained."""
    # Torch is not always there, and takes seconds to import.
    from onnxlite.tune.step_timing import step_seconds

    try:
        return step_seconds(original, calibration)
    except OnnxliteError as error:
        logger.info("nothing is trained: %s", error)
    except MemoryError:
        raise
    except Exception as error:
        # Like a step that a strange model breaks: the search goes on without it.
        logger.warning(
            "the model does not run in torch, and nothing is trained; please report it (%s: %s)",
            type(error).__name__,
            error,
        )
    return None
