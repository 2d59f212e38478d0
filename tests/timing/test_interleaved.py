"""The one timer: turns of many models, a clock that can be replaced, a timer that can be."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

import onnxlite
from onnxlite.timing import InterleavedTimer, current_timer, time_ratios, use_timer
from tests.fake_timer import FakeTimer


class FakeSession:
    """Takes a fixed time by the clock that it moves."""

    threads = None

    def __init__(self, seconds: float, log: list[float]) -> None:
        self._seconds, self._log = seconds, log

    def run(self, _feed: object) -> dict[str, object]:
        self._log.append(self._seconds)
        return {}


def run(seconds: list[float], **options: object) -> tuple[np.ndarray, list[float]]:
    log: list[float] = []
    timer = InterleavedTimer(clock=lambda: sum(log))
    sessions = [FakeSession(each, log) for each in seconds]
    return timer.times(sessions, [[{}] * len(seconds)], **options), log  # type: ignore[arg-type]


def test_slots_last_twenty_milliseconds() -> None:
    times, log = run([0.004, 0.001], rounds=2, budget_s=1.0)
    np.testing.assert_allclose(times, [[0.004, 0.001]] * 2)
    a, b = [0.004] * 6, [0.001] * 21  # the first run of a slot is not timed
    assert log[4:] == [*a, *b, *b, *a] * 2


def test_any_number_of_models_takes_turns_there_and_back() -> None:
    times, log = run([0.02, 0.04, 0.01], rounds=1, budget_s=1.0)
    np.testing.assert_allclose(times, [[0.02, 0.04, 0.01]])
    assert log[6:] == [0.02] * 2 + [0.04] * 2 + [0.01] * 3 + [0.01] * 3 + [0.04] * 2 + [0.02] * 2


def test_few_rounds_are_done_whatever_the_budget() -> None:
    assert len(run([0.02, 0.04], budget_s=1e-9)[0]) == 5
    assert len(run([0.02, 0.04, 0.02], budget_s=1e-9)[0]) == 3


def test_another_timer_decides_as_long_as_it_is_used() -> None:
    before = current_timer()
    with use_timer(FakeTimer(lambda *_: [0.5, 2.0])):
        assert time_ratios([None] * 3, {}, budget_s=1.0) == [0.5, 2.0]  # type: ignore[list-item]
        with use_timer(None):
            assert current_timer() is None
        assert isinstance(current_timer(), FakeTimer)
    assert current_timer() is before


def test_there_is_one_timer() -> None:
    """Clocks of the processor are read in timing alone."""
    root = Path(onnxlite.__file__).parent
    users = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("thread_time", "process_time")
    }
    assert users == {"timing"}
