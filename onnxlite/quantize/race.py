"""Times of several models as they take turns, against the first one's."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from onnxlite.analysis.kernels import undisturbed
from onnxlite.records import Progress
from onnxlite.runtime import Session
from onnxlite.samples import Feed

#: A turn of a fast model is several runs, until it is long against the clock.
_TURN_S = 0.002
_LEAST_ROUNDS, _MOST_ROUNDS = 8, 100


def race(
    sessions: Sequence[Session], feed: Feed, *, budget_s: float, progress: Progress
) -> list[float]:
    """Time of every session but the first, as a share of the first one's.

    Every other round goes backwards, so that nobody always runs in the wake of the same one.
    The machine may be busy with other work, which only ever makes a run longer: of each
    session the shortest turns count.

    Args:
        sessions: at least two, with the same inputs.
        feed: of all of them.
        budget_s: seconds, exceeded if 8 rounds take longer.
        progress: called after every round.
    """
    repeats = []
    for session in sessions:
        _turn(session, feed, 1)
        repeats.append(max(1, math.ceil(_TURN_S / _turn(session, feed, 1))))
    times: list[list[float]] = [[] for _ in sessions]
    began, rounds, wanted = time.perf_counter(), 0, _LEAST_ROUNDS
    while rounds < wanted:
        order = range(len(sessions))
        for i in order if rounds % 2 == 0 else reversed(order):
            times[i].append(_turn(sessions[i], feed, repeats[i]))
        rounds += 1
        spent = time.perf_counter() - began
        if rounds >= _LEAST_ROUNDS:
            wanted = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, int(rounds * budget_s / spent)))
        progress("time placements", min(rounds, wanted), wanted)
    first, *others = (undisturbed(turns) for turns in times)
    return [other / first for other in others]


def _turn(session: Session, feed: Feed, repeats: int) -> float:
    """Mean seconds of `repeats` runs."""
    start = time.perf_counter()
    for _ in range(repeats):
        session.run(feed)
    return (time.perf_counter() - start) / repeats
