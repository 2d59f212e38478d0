"""Searches with a fake timer: the latency of a model is its size, whatever the machine does."""

from __future__ import annotations

import importlib

import pytest

from onnxlite.evaluate import Latency, Ratio, Timing, machine
from onnxlite.model import load, size_bytes
from onnxlite.search import deadline


def by_size(reference, candidate, **options) -> Latency:
    """A latency of one millisecond per kilobyte of tensors."""
    ms = [size_bytes(load(model)) / 1000 for model in (reference, candidate)]
    ratio = ms[1] / ms[0] if ms[0] else 1.0
    timings = [Timing(median_ms=m, minimum_ms=m, start_ms=m) for m in ms]
    options["progress"]("benchmark", 1, 1)
    return Latency(
        ratio=Ratio(median=ratio, low=ratio * 0.99, high=ratio * 1.01, minimum=ratio),
        reference=timings[0],
        candidate=timings[1],
        rounds=5,
        threads=1,
        inputs={"x": (1, 3, 16, 16)},
        machine=machine(),
        notes=(),
        seconds=0.0,
    )


@pytest.fixture(autouse=True, scope="module")
def fake_timer():
    """Time nothing, so that nothing depends on the load of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        # `onnxlite.search.optimize` is also the name of a function.
        patch.setattr(importlib.import_module("onnxlite.search.optimize"), "benchmark", by_size)
        patch.setattr(deadline, "can_tune", lambda: False)  # minutes each
        yield
