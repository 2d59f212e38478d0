"""Work on any `concurrent.futures.Executor`, each task done once.

A worker that dies takes its tasks with it; they are handed out again. After that a task
runs with no other beside it, so that one that kills workers is found out and costs nobody
else anything.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from concurrent.futures.process import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Generic, TypeVar

from onnxlite.errors import ExecutionError
from onnxlite.records import Progress, no_progress

logger = logging.getLogger(__name__)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

#: A task that its workers did not survive so often is given up.
MAX_ATTEMPTS = 3
_POLL_S = 0.2


class Lost(ExecutionError):
    """A task was lost with its worker, again and again."""


class Workers:
    """Hands tasks out to an executor.

    Args:
        executor: any; a process pool, or `Client.get_executor()` of a Dask cluster.
        renew: makes a new executor where one broke for good, like a process pool whose worker
            died; None where there is no other.
    """

    def __init__(self, executor: Executor, renew: Callable[[], Executor] | None = None) -> None:
        self._executor, self._renew = executor, renew

    def each(
        self,
        function: Callable[[TaskT], ResultT],
        tasks: Sequence[TaskT],
        *,
        stage: str = "work",
        progress: Progress = no_progress,
    ) -> Iterator[tuple[int, ResultT | Lost]]:
        """Do every task; gives index and result, in the order in which they are done.

        Args:
            function: of one task; both can be pickled. An error that means something is to be
                its result: one that is raised counts as the death of a worker.
            tasks: what to do.
            stage: for progress.
            progress: called several times a second; what it raises ends the work.
        """
        run = _Run(self, function, tasks)
        try:
            yield from run.results(stage, progress)
        finally:
            run.cancel()

    def submit(self, function: Callable[[TaskT], ResultT], task: TaskT) -> Future[ResultT]:
        """Hand one task out, to a new executor if the present one is broken."""
        try:
            return self._executor.submit(function, task)
        except (BrokenExecutor, RuntimeError) as error:
            if self._renew is None:
                raise Lost(
                    f"the executor takes no more work ({error}): a worker died; give a new executor"
                ) from error
            logger.warning("a worker died; new ones go on")
            self.close()
            self._executor = self._renew()
            return self._executor.submit(function, task)

    def close(self) -> None:
        """Shut the executor down, without waiting."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Run(Generic[TaskT, ResultT]):
    """The tasks of one call: which wait, which run, how often each was tried."""

    def __init__(
        self, workers: Workers, function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT]
    ) -> None:
        self._workers, self._function, self._tasks = workers, function, tasks
        self._fresh = deque(range(len(tasks)))
        self._again: deque[int] = deque()
        self._attempts: Counter[int] = Counter()
        self._running: dict[Future[ResultT], int] = {}

    def results(self, stage: str, progress: Progress) -> Iterator[tuple[int, ResultT | Lost]]:
        """Every index once."""
        done = 0
        while self._fresh or self._again or self._running:
            yield from self._hand_out()
            finished, _ = wait(self._running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                index = self._running.pop(future)
                try:
                    result: ResultT | Lost = future.result()
                # Each executor has its own errors for a worker that is gone.
                except Exception as error:
                    self._attempts[index] += 1
                    if self._attempts[index] < MAX_ATTEMPTS:
                        logger.warning("a task of work is done again: %r", error)
                        self._again.append(index)
                        continue
                    result = Lost(f"its worker died {MAX_ATTEMPTS} times: {error!r}")
                done += 1
                yield index, result
            progress(stage, done, len(self._tasks))

    def _hand_out(self) -> Iterator[tuple[int, Lost]]:
        """Submit what may run: everything at first, and what was tried before alone."""
        waiting = [self._fresh.popleft() for _ in range(len(self._fresh))]
        if not waiting and self._again and not self._running:
            waiting = [self._again.popleft()]
        for index in waiting:
            try:
                future = self._workers.submit(self._function, self._tasks[index])
            except Lost as error:
                yield index, error
            else:
                self._running[future] = index

    def cancel(self) -> None:
        """Take back what has not begun."""
        for future in self._running:
            with contextlib.suppress(Exception):
                future.cancel()


def local_workers(count: int) -> Workers:
    """So many processes of this machine, replaced when one dies."""

    def pool() -> Executor:
        # A forked child would inherit ONNX Runtime's threads in any state.
        return ProcessPoolExecutor(count, mp_context=get_context("spawn"))

    return Workers(pool(), pool)
