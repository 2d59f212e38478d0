"""For how many steps candidates are trained: as many as there is time for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import onnx_ir as ir

from onnxlite.errors import OnnxliteError
from onnxlite.machine import machine
from onnxlite.samples import SamplesLike
from onnxlite.search.candidates import can_tune
from onnxlite.search.store import Store, code_digest, key_of

logger = logging.getLogger(__name__)

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
