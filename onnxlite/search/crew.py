"""Who does the steps: this process, or the workers of an executor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Protocol

from onnxlite.errors import OptionError
from onnxlite.recipe.dynamic import QuantizeAuto, QuantizeDynamic
from onnxlite.recipe.steps import PruneChannels, QuantizeStatic, Step
from onnxlite.records import Progress
from onnxlite.samples import Samples, input_specs
from onnxlite.search.work import Done, Work, do, parse
from onnxlite.workers import Lost, Workers, local_workers

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


class Hired:
    """Hands steps out to workers, except those that measure times: these run here, alone.

    Workers are busy, and may be other machines than the one that the model is for.
    """

    parallel = True

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._here = InProcess()

    def do(
        self, works: Sequence[Labelled], progress: Progress
    ) -> Iterator[tuple[int, Done, float]]:
        """Give each result as it is done: first what workers do, then what is done here."""
        away = [i for i, (_, work) in enumerate(works) if not measures(work.step)]
        pieces = [_portable(works[i][1]) for i in away]
        labels = ", ".join(works[i][0] for i in away)
        for index, result in self._workers.each(
            timed, pieces, stage=f"workers: {labels}", progress=progress
        ):
            if isinstance(result, Lost):
                yield away[index], Done(None, {}, None, str(result), lost=True), 0.0
            else:
                yield away[index], *result
        here = [i for i, (_, work) in enumerate(works) if measures(work.step)]
        for index, done, seconds in self._here.do([works[i] for i in here], progress):
            yield here[index], done, seconds


def timed(work: Work) -> tuple[Done, float]:
    """Do a piece of work and tell the seconds it took; what workers are sent."""
    start = time.perf_counter()
    done = do(work)
    return done, time.perf_counter() - start


def measures(step: Step) -> bool:
    """Whether a step decides by times of this machine."""
    match step:
        case QuantizeStatic(placement="measured") | QuantizeAuto():
            return True
        case QuantizeDynamic(kernel="auto"):
            return True
        case PruneChannels(latency=float()):
            return True
        case _:
            return False


@contextlib.contextmanager
def crew_of(executor: Executor | int | None) -> Iterator[Crew]:
    """The crew for what a caller gave; processes that were started for it end with it.

    Raises:
        OptionError: a number of workers below 1.
    """
    if executor is None:
        yield InProcess()
    elif isinstance(executor, int):
        if executor < 1:
            raise OptionError(f"executor={executor}: at least one worker")
        workers = local_workers(executor)
        try:
            yield Hired(workers)
        finally:
            workers.close()
    else:
        yield Hired(Workers(executor))


def _portable(work: Work) -> Work:
    """The work with its samples as plain arrays: windows of streams cannot be pickled."""
    feeds = Samples(work.samples, input_specs(parse(work.model)))
    return replace(work, samples=list(feeds))
