"""The time of a search: how much is left, and what is told meanwhile."""

from __future__ import annotations

import time

from onnxlite.records import Progress
from onnxlite.search.work import Interruption

#: Of the time limit, kept for the final check.
_RESERVED_SHARE, _RESERVED_MOST_S = 0.2, 20.0


class Clock:
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
        """Pass progress on; raise `Interruption` when time is up."""
        left = ""
        if self._deadline is not None:
            seconds = self._deadline - time.perf_counter()
            if seconds < 0:
                raise Interruption
            left = f", {seconds:.0f} s left"
        self._told(f"{stage} (trial {self.trials + 1}; {self.best}{left})", done, total)
