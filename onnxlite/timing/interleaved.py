"""Run times of two models as they alternate in one process: only their ratio is steady.

They take turns of several runs, the first of which is not timed: a process serves one model, and
that it finds the other one's weights in the caches has no part in its latency. (INT8
EfficientNet-Lite0 takes 0.47 of the float model's time if they alternate run by run, and 0.41 if
each runs a hundred times.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Feed

#: A slot of a round runs a fast model several times, until it is long against the clock and
#: against what it takes to get going.
_SLOT_S = 0.02
#: A coarser clock than this cannot time a slot.
RESOLUTION_S = 1e-5
_MIN_ROUNDS, _MAX_ROUNDS = 5, 500


def paired_times(
    sessions: tuple[Session, Session],
    pairs: Sequence[tuple[Feed, Feed]],
    *,
    rounds: int | None = None,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """Seconds of one run, float64[rounds, 2]: the mean of a round's two slots per model.

    Args:
        sessions: the two models.
        pairs: the inputs of both, taken in turn.
        rounds: A B B A each; None does as many as the budget allows, from 5 to 500.
        clock: in seconds; `processor_clock()` for sessions of one thread.
        budget_s: seconds, exceeded if 5 rounds take longer.
        progress: called after every round.
    """
    repeats = [1, 1]
    for i in (0, 1):
        for _ in range(2):  # the second run is warm and tells how many make a slot
            once = _slot(sessions[i], pairs[0][i], 1, clock)
        repeats[i] = max(1, math.ceil(_SLOT_S / max(once, RESOLUTION_S)))
        _slot(sessions[i], pairs[0][i], repeats[i], clock)
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    wanted = rounds or _MAX_ROUNDS
    while len(times) < wanted:
        feeds = pairs[len(times) % len(pairs)]
        a, b, c, d = (_slot(sessions[i], feeds[i], repeats[i], clock) for i in (0, 1, 1, 0))
        times.append(((a + d) / 2, (b + c) / 2))
        elapsed = time.perf_counter() - began
        if rounds is None and len(times) >= _MIN_ROUNDS:
            wanted = min(_MAX_ROUNDS, max(_MIN_ROUNDS, int(len(times) * budget_s / elapsed)))
        progress("benchmark", min(len(times), wanted), wanted)
    return np.array(times)


def processor_clock() -> Callable[[], float]:
    """Processor time of the calling thread: what else the machine does does not count.

    A session of one thread runs in the caller's. Where the system does not count this time
    finely, it is wall-clock time.
    """
    if time.get_clock_info("thread_time").resolution <= RESOLUTION_S:
        return time.thread_time
    return time.perf_counter


def _slot(session: Session, feed: Feed, repeats: int, clock: Callable[[], float]) -> float:
    """Mean seconds of `repeats` runs, after one that does not count."""
    session.run(feed)
    start = clock()
    for _ in range(repeats):
        session.run(feed)
    return (clock() - start) / repeats
