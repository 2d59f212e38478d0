"""Work in child processes that may crash or hang: each item is done, lost or out of time."""

from __future__ import annotations

import logging
import os
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

TaskT = TypeVar("TaskT")
#: Does a task, of which it skips the first items, and yields a result per item.
Work = Callable[[TaskT, int], Iterator[Any]]

_CONTEXT = get_context("spawn")
_END = "end of the task"


@dataclass(frozen=True)
class Lost:
    """An item without a result: its process died, or it took too long."""

    reason: str


class _Child(Generic[TaskT]):
    """A process and the task that it has."""

    def __init__(self, work: Work[TaskT]) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()
        # A process takes seconds to begin, which are no part of its first item.
        self.pipe.recv()
        self.task = self.done = -1
        self.since = 0.0

    def give(self, number: int, task: TaskT, done: int) -> None:
        """Hand over a task of which some items are done."""
        self.task, self.done, self.since = number, done, time.monotonic()
        self.pipe.send((task, done))

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def each(
    work: Work[TaskT], tasks: Sequence[TaskT], *, children: int, time_limit_s: float
) -> Iterator[tuple[int, int, Any]]:
    """Do tasks of several items; yields task, item and its result, or `Lost`.

    What follows a lost item is done by another process.

    Args:
        work: a function of a module, with the task and the number of items to skip.
        tasks: what can be pickled.
        children: processes at a time.
        time_limit_s: of one item.
    """
    waiting = deque((number, 0) for number in range(len(tasks)))
    present: list[_Child[TaskT]] = []
    try:
        while waiting or any(child.task >= 0 for child in present):
            while waiting and len(present) < children:
                present.append(_Child(work))
            for child in present:
                if child.task < 0 and waiting:
                    number, done = waiting.popleft()
                    child.give(number, tasks[number], done)
            busy = [child for child in present if child.task >= 0]
            ready = wait([child.pipe for child in busy], timeout=1.0)
            for child in busy:
                found = _heard(child, child.pipe in ready, time_limit_s)
                if found is None:
                    continue
                if isinstance(found, str) and found == _END:
                    child.task = -1
                    continue
                yield child.task, child.done, found
                child.done += 1
                child.since = time.monotonic()
                if isinstance(found, Lost):
                    waiting.appendleft((child.task, child.done))
                    child.end()
                    present.remove(child)
    finally:
        for child in present:
            child.end()


def _heard(child: _Child[Any], ready: bool, time_limit_s: float) -> Any:
    """A result, the end, a loss; None if nothing has come yet."""
    if ready:
        try:
            return child.pipe.recv()
        except (EOFError, ConnectionError):
            child.process.join()
            return Lost(f"the process died with exit code {child.process.exitcode}")
    if time.monotonic() - child.since > time_limit_s:
        return Lost(f"no result within {time_limit_s:.0f} s")
    return None


def _serve(pipe: Connection, work: Work[Any]) -> None:
    """Do tasks until the parent closes the pipe."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # ONNX Runtime writes what it finds in broken models to the standard error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send("begun")
    while True:
        try:
            task, done = pipe.recv()
        except EOFError:
            return
        try:
            for result in work(task, done):
                pipe.send(result)
            pipe.send(_END)
        # A fault of the suite itself; the process cannot go on with the task.
        except Exception as error:
            pipe.send(Lost("".join(traceback.format_exception(error)[-2:])))
