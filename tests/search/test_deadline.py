"""Number of training steps that fit in the time limit."""

from __future__ import annotations

import math
import time

import pytest

from onnxlite.cache import Cache
from onnxlite.records import no_progress
from onnxlite.search import deadline


@pytest.mark.parametrize(
    ("step_s", "limit", "steps"),
    [
        (0.05, 600, 4000),
        (0.1, 600, 4000),
        (0.2, 600, 2000),
        # Half of a course is worth nothing.
        (2.0, 1200, 0),
        # A search without a limit does not take days all the same.
        (0.1, None, 4000),
        (5.0, None, 0),
        (None, 600, 0),
    ],
)
def test_training_is_as_long_as_time_allows(monkeypatch, step_s, limit, steps):
    monkeypatch.setattr(deadline, "can_tune", lambda: True)
    monkeypatch.setattr(deadline, "_step_seconds", lambda *_: step_s)
    assert asked(limit, 1.0) == steps


def asked(limit, latency_ms):
    """The steps for any model: what is measured of it is made up."""
    return deadline.training_steps(
        None, "digest", None, Cache.in_memory(), limit_s=limit, latencies_ms=[latency_ms]
    )


def test_where_no_step_would_do_none_is_measured(monkeypatch):
    def measured(*_):
        raise AssertionError("a step of a slow model was measured")

    monkeypatch.setattr(deadline, "can_tune", lambda: True)
    monkeypatch.setattr(deadline, "_step_seconds", measured)
    assert asked(600, 100.0) == 0


def test_nothing_is_trained_without_torch(monkeypatch):
    monkeypatch.setattr(deadline, "can_tune", lambda: False)
    assert asked(600, 1.0) == 0


def test_default_limit_follows_from_the_model(monkeypatch):
    monkeypatch.setattr(deadline, "Session", lambda *_, **__: None)
    for run_s, limit in ((1e-4, 93), (0.03, 990), (10.0, 1800)):
        monkeypatch.setattr(deadline, "run_seconds", lambda *_, of=run_s: of)
        assert deadline.default_limit_s(None, {}, 500) == limit


def test_the_check_raises_when_time_is_up():
    start = time.perf_counter()
    with pytest.raises(deadline.TimeUp):
        deadline.Deadline(start - 10, 10.0, no_progress).check()
    deadline.Deadline(start, 10.0, no_progress).check()
    for unlimited in (None, math.inf):
        clock = deadline.Deadline(start - 1e9, unlimited, no_progress)
        clock.check()
        assert clock.final_s(0.1) == math.inf
