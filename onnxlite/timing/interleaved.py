"""Interleaved timer: run times of models that take turns in one process.

A machine's speed drifts by more than two models differ, so each round times every model, in the
order A B ... B A. A turn is a slot of several runs, the first of which is not timed: a process
serves one model, and that it finds the other one's weights in the caches has no part in its
latency. (INT8 EfficientNet-Lite0 takes 0.47 of the float model's time if they alternate run by
run, and 0.41 if each runs a hundred times.)

Whatever decides by times asks `current_timer()` for the timer; `use_timer` puts another one in
its place, such as one that tells made-up times, or None: then nothing is decided by times.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.inputs import Feed
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session

#: A slot runs a fast model several times, until it is long against the clock and against what it
#: takes to get going. Slots of 2 ms overrate INT8.
_SLOT_S = 0.02
#: A coarser clock than this cannot time a slot.
RESOLUTION_S = 1e-5
#: Rounds of two models, and of more, at least.
_MIN_ROUNDS, _MIN_ROUNDS_OF_MANY, _MAX_ROUNDS = 5, 3, 500
#: Quantiles of Student's t distribution for 95%, by the number of rounds.
_T_95 = (math.inf, math.inf, 12.7, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.0)
#: Runs of a longer slot than this need no first one that is not timed: loading its weights into the
#: caches is a small part of each.
_LONG_S = 0.1
#: Number of runs in a slot that stands for a single one, without one before it.
_LONG = 0
#: Runs to take the median of in `run_seconds`.
_RUNS = 9


#: Decides by the seconds so far, float64[rounds, models], whether they suffice.
Enough: TypeAlias = Callable[[NDArray[np.float64]], bool]


class Timer(Protocol):
    """Times models against each other."""

    def times(
        self,
        sessions: Sequence[Session],
        feeds: Sequence[Sequence[Feed]],
        *,
        rounds: int | None = None,
        budget_s: float,
        enough: Enough | None = None,
        progress: Progress = no_progress,
    ) -> NDArray[np.float64]:
        """Seconds of one run, float64[rounds, models].

        Args:
            sessions: two models or more.
            feeds: taken in turn, round by round; each holds one feed per model.
            rounds: their number; None does as many as the budget allows.
            budget_s: seconds, exceeded if the fewest rounds take longer.
            enough: asked after every round from the second on; True ends before the fewest
                rounds.
            progress: called after every round.
        """
        ...


@dataclass(frozen=True)
class InterleavedTimer:
    """Times models in slots of 20 ms, in the order A B ... B A.

    From 5 to 500 rounds of two models; of more, from 3. A round's time is the mean of a model's
    two slots.

    Attributes:
        clock: in seconds; None takes the processor time of the calling thread if all sessions
            have one thread, which is the caller's, and else wall-clock time.
    """

    clock: Callable[[], float] | None = None

    def times(
        self,
        sessions: Sequence[Session],
        feeds: Sequence[Sequence[Feed]],
        *,
        rounds: int | None = None,
        budget_s: float,
        enough: Enough | None = None,
        progress: Progress = no_progress,
    ) -> NDArray[np.float64]:
        """See `Timer.times`."""
        single = all(session.threads == 1 for session in sessions)
        clock = self.clock or (processor_clock() if single else time.perf_counter)
        repeats = [
            _repeats(session, feed, clock) for session, feed in zip(sessions, feeds[0], strict=True)
        ]
        fewest = _MIN_ROUNDS if len(sessions) == 2 else _MIN_ROUNDS_OF_MANY
        order = range(len(sessions))
        times: list[NDArray[np.float64]] = []
        began, wanted = time.perf_counter(), rounds or _MAX_ROUNDS
        while len(times) < wanted:
            given = feeds[len(times) % len(feeds)]
            total = np.zeros(len(sessions))
            for i in (*order, *reversed(order)):
                total[i] += _slot(sessions[i], given[i], repeats[i], clock)
            times.append(total / 2)
            if enough is not None and len(times) > 1 and enough(np.array(times)):
                break
            elapsed = time.perf_counter() - began
            if rounds is None and len(times) >= fewest:
                affordable = int(len(times) * budget_s / elapsed)
                wanted = min(_MAX_ROUNDS, max(fewest, affordable))
            progress("time models", min(len(times), wanted), wanted)
        return np.array(times)


class _Current:
    """The timer of this process."""

    timer: Timer | None = InterleavedTimer()


def current_timer() -> Timer | None:
    """Return the timer that decides; None where nothing is decided by times."""
    return _Current.timer


@contextlib.contextmanager
def use_timer(timer: Timer | None) -> Iterator[None]:
    """Decide by another timer, or by none, as long as the context lasts."""
    before, _Current.timer = _Current.timer, timer
    try:
        yield
    finally:
        _Current.timer = before


def run_seconds(session: Session, feed: Feed) -> float:
    """Measure the median wall-clock time of one run, in seconds, after one warm-up run."""
    session.run(feed)
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        session.run(feed)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_ratios(
    sessions: Sequence[Session],
    feed: Feed,
    *,
    rounds: int | None = None,
    budget_s: float,
    enough: Enough | None = None,
    progress: Progress = no_progress,
) -> list[float]:
    """Median time of every session but the first, over the first one's.

    Args:
        sessions: at least two, with the same inputs.
        feed: of all of them.
        rounds: their number; None does as many as the budget allows.
        budget_s: seconds, exceeded if the fewest rounds take longer.
        enough: asked after every round from the second on; True ends the rounds.
        progress: called after every round.
    """
    timer = current_timer() or InterleavedTimer()
    times = timer.times(
        sessions,
        [[feed] * len(sessions)],
        rounds=rounds,
        budget_s=budget_s,
        enough=enough,
        progress=progress,
    )
    ratios: list[float] = np.median(times[:, 1:] / times[:, :1], axis=0).tolist()
    return ratios


def half_interval(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the width of the 95% interval of the mean over rounds, float64[rounds, n]."""
    count = len(rounds)
    quantile = _T_95[min(count, len(_T_95) - 1)]
    half: NDArray[np.float64] = quantile * rounds.std(axis=0, ddof=1) / math.sqrt(count)
    return half


def processor_clock() -> Callable[[], float]:
    """Processor time of the calling thread: what else the machine does does not count.

    A session of one thread runs in the caller's. Where the system does not count this time
    finely, it is wall-clock time.
    """
    if time.get_clock_info("thread_time").resolution <= RESOLUTION_S:
        return time.thread_time
    return time.perf_counter


def _repeats(session: Session, feed: Feed, clock: Callable[[], float]) -> int:
    """Number of runs in a slot; leaves the model warm."""
    once = _slot(session, feed, 1, clock)
    return max(1, math.ceil(_SLOT_S / max(once, RESOLUTION_S))) if once < _LONG_S else _LONG


def _slot(session: Session, feed: Feed, repeats: int, clock: Callable[[], float]) -> float:
    """Mean seconds of `repeats` runs, after one that does not count if runs are short."""
    if repeats == _LONG:
        repeats = 1
    else:
        session.run(feed)
    start = clock()
    for _ in range(repeats):
        session.run(feed)
    return (clock() - start) / repeats
