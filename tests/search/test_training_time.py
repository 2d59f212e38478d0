"""For how long candidates are trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from onnxlite.search import search as module


@pytest.mark.parametrize(
    ("latency_ms", "limit", "steps"),
    [
        (0.2, 600, 4000),
        (1.0, 600, 2000),
        # Half of a course is worth nothing.
        (8.0, 1200, None),
        (8.0, None, 4000),
    ],
)
def test_training_is_as_long_as_time_allows(monkeypatch, latency_ms, limit, steps):
    monkeypatch.setattr(module, "can_tune", lambda: True)
    tried = [(None, SimpleNamespace(latency_ms=time)) for time in (latency_ms, latency_ms / 3)]
    own = SimpleNamespace(lab=SimpleNamespace(tried=tried), _clock=SimpleNamespace(limit=limit))
    assert module.Search._training(own) == steps


def test_nothing_is_trained_without_torch(monkeypatch):
    monkeypatch.setattr(module, "can_tune", lambda: False)
    assert module.Search._training(SimpleNamespace()) is None
