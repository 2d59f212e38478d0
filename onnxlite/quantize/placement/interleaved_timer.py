"""Times of several models as they take turns, against the first one's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from onnxlite.records import Progress
from onnxlite.runtime import Session
from onnxlite.samples import Feed
from onnxlite.timing.interleaved import RESOLUTION_S, processor_clock
from onnxlite.timing.profiler import undisturbed

#: A turn of a fast model is several runs, until it is long against the clock.
_TURN_S = 0.002
_LEAST_ROUNDS, _MOST_ROUNDS = 8, 40


def race(
    sessions: Sequence[Session], feed: Feed, *, budget_s: float, progress: Progress
) -> list[float]:
    """Time of every session but the first, as a share of the first one's.

    Sessions have one thread, which is the caller's: its processor time is taken, and what
    else the machine does in between does not count. Every other round goes backwards.

    Args:
        sessions: at least two, of one thread and with the same inputs.
        feed: of all of them.
        budget_s: seconds, exceeded if 8 rounds take longer.
        progress: called after every round.
    """
    clock = processor_clock()
    repeats = [
        max(1, math.ceil(_TURN_S / max(_turn(session, feed, 1, clock), RESOLUTION_S)))
        for session in sessions
    ]
    times: list[list[float]] = [[] for _ in sessions]
    began, rounds, wanted = time.perf_counter(), 0, _LEAST_ROUNDS
    while rounds < wanted:
        order = range(len(sessions))
        for i in order if rounds % 2 == 0 else reversed(order):
            times[i].append(_turn(sessions[i], feed, repeats[i], clock))
        rounds += 1
        spent = time.perf_counter() - began
        if rounds >= _LEAST_ROUNDS:
            wanted = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(rounds * budget_s / spent)))
        progress("time placements", min(rounds, wanted), wanted)
    first, *others = map(undisturbed, times)
    return [other / first for other in others]


def _turn(session: Session, feed: Feed, repeats: int, clock: Callable[[], float]) -> float:
    """Mean seconds of `repeats` runs, after one that brings the model back into the caches."""
    session.run(feed)
    start = clock()
    for _ in range(repeats):
        session.run(feed)
    return (clock() - start) / repeats
