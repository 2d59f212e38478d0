"""Who does the steps: this process, or the workers of an executor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from onnxlite.records import Progress
from onnxlite.search.work import Done, Work, do

Labelled = tuple[str, Work]


class Crew(Protocol):
    """Does pieces of work, in any order.

    Attributes:
        parallel: whether several are done at once.
    """

    parallel: bool

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, Done, float]]:
        """Give index, result and seconds of each piece of work as it is done."""
        ...


class InProcess:
    """Does one after the other here."""

    parallel = False

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, Done, float]]:
        """Give each result as it is done; what `progress` raises goes through."""
        for index, (label, work) in enumerate(works):

            def told(stage: str, done: int, total: int, label: str = label) -> None:
                progress(f"{label}: {stage}", done, total)

            start = time.perf_counter()
            result = do(work, told)
            yield index, result, time.perf_counter() - start
