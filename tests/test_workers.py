"""Work on executors: each piece once, also when workers die."""

from __future__ import annotations

import os
import signal
from collections import Counter
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from onnxlite.workers import MAX_ATTEMPTS, Lost, Workers, local_workers


def square(number):
    return number * number


def dying_once(piece):
    """Kills the process it runs in, the first time that a piece is seen."""
    number, folder = piece
    marker = Path(folder) / str(number)
    if number == 3 and not marker.exists():
        marker.write_text("seen")
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def deadly(piece):
    if piece == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


class Flaky(Executor):
    """Runs at once; loses what `loses` says of the piece and of how often it was tried."""

    def __init__(self, loses):
        self._loses, self.tried, self.broken = loses, Counter(), False

    def submit(self, function, piece):
        if self.broken:
            raise BrokenExecutor("gone")
        future = Future()
        self.tried[piece] += 1
        if self._loses(piece, self.tried[piece]):
            future.set_exception(BrokenExecutor("a worker died"))
        else:
            future.set_result(function(piece))
        return future


def test_every_piece_is_done_once():
    with ThreadPoolExecutor(3) as executor:
        found = list(Workers(executor).each(square, list(range(20))))
    assert sorted(index for index, _ in found) == list(range(20))
    assert dict(found) == {n: n * n for n in range(20)}


def test_what_a_worker_took_with_it_is_done_again():
    executor = Flaky(lambda piece, times: times == 1 and piece % 2)
    found = list(Workers(executor).each(square, list(range(6))))
    assert dict(found) == {n: n * n for n in range(6)}
    assert len(found) == 6
    assert executor.tried == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 2}


def test_a_piece_that_kills_workers_is_given_up_alone():
    executor = Flaky(lambda piece, times: piece == 2)
    found = dict(Workers(executor).each(square, list(range(4))))
    assert isinstance(found.pop(2), Lost)
    assert found == {0: 0, 1: 1, 3: 9}
    assert executor.tried[2] == MAX_ATTEMPTS


def test_a_broken_executor_is_replaced_or_the_work_is_lost():
    broken = Flaky(lambda piece, times: False)
    broken.broken = True
    fresh = Flaky(lambda piece, times: False)
    assert dict(Workers(broken, lambda: fresh).each(square, [2])) == {0: 4}
    (result,) = dict(Workers(broken).each(square, [2])).values()
    assert isinstance(result, Lost)
    assert "new executor" in str(result)


def test_progress_may_end_the_work():
    def stop(stage, done, total):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        list(Workers(executor).each(square, [1, 2, 3], progress=stop))


@pytest.mark.slow
def test_a_real_process_that_is_killed_changes_nothing(tmp_path):
    workers = local_workers(2)
    try:
        pieces = [(number, str(tmp_path)) for number in range(6)]
        found = list(workers.each(dying_once, pieces))
        assert dict(found) == {n: n * n for n in range(6)}
        assert len(found) == 6
        assert (tmp_path / "3").exists()
        poisoned = dict(workers.each(deadly, list(range(4))))
        assert isinstance(poisoned.pop(2), Lost)
        assert poisoned == {0: 0, 1: 1, 3: 3}
    finally:
        workers.close()
