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
    own = SimpleNamespace(_step_seconds=lambda: step_s, _clock=SimpleNamespace(limit=limit))
    assert module.Search._training(own) == steps


def test_nothing_is_trained_without_torch(monkeypatch):
    monkeypatch.setattr(module, "can_tune", lambda: False)
    assert module.Search._training(SimpleNamespace()) is None
