"""For how long candidates are trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from onnxlite.search import search as module


@pytest.mark.parametrize(
    ("step_s", "limit", "steps"),
    [
        (0.05, 600, 4000),
        (0.1, 600, 4000),
        (0.2, 600, 2000),
        # Half of a course is worth nothing.
        (2.0, 1200, None),
        # A search without a limit does not take days all the same.
        (0.1, None, 4000),
        (5.0, None, None),
        (None, 600, None),
    ],
)
def test_training_is_as_long_as_time_allows(monkeypatch, step_s, limit, steps):
    monkeypatch.setattr(module, "can_tune", lambda: True)
    assert module.Search._training(search(1.0, limit, lambda: step_s)) == steps


def search(latency_ms, limit, step_seconds):
    tried = [(None, SimpleNamespace(latency_ms=time)) for time in (latency_ms, None)]
    return SimpleNamespace(
        _step_seconds=step_seconds,
        _clock=SimpleNamespace(limit=limit),
        lab=SimpleNamespace(tried=tried),
    )


def test_where_no_step_would_do_none_is_measured(monkeypatch):
    monkeypatch.setattr(module, "can_tune", lambda: True)

    def measured():
        raise AssertionError("a step of a slow model was measured")

    assert module.Search._training(search(100.0, 600, measured)) is None


def test_nothing_is_trained_without_torch(monkeypatch):
    monkeypatch.setattr(module, "can_tune", lambda: False)
    assert module.Search._training(SimpleNamespace()) is None
