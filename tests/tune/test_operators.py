"""Every operator that torch computes, against ONNX Runtime on onnx's backend test suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxlite.errors import ExecutionError, ModelError, UnsupportedError
from onnxlite.model import load
from onnxlite.runtime import Session
from tests.simplify.test_backend_models import cases

torch = pytest.importorskip("torch")

from onnxlite.tune.executor import TorchGraph, torch_feed  # noqa: E402


def fault(proto: Any, inputs: list[Any]) -> str | None:
    """What torch computes otherwise than ONNX Runtime; raises where one of them refuses."""
    if any(isinstance(value, list) or value is None for value in inputs):
        raise UnsupportedError("sequences and optionals")
    model = load(proto)
    session = Session(model, threads=1)
    feed = dict(zip(session.input_names, inputs, strict=False))
    expected = session.run(feed)
    with torch.no_grad():
        found = TorchGraph(model)(torch_feed(feed))
    for name, want in expected.items():
        have = found[name].to(torch.float64).numpy()
        if have.shape != want.shape:
            return f"{name}: shape {have.shape}, not {want.shape}"
        near = 2e-3 if want.dtype == np.float16 else 1e-4
        if not np.allclose(want.astype(np.float64), have, near, near / 10, equal_nan=True):
            return f"{name}: {want.reshape(-1)[:4]} is {have.reshape(-1)[:4]}"
    return None


def check(step: int, *, minimum: int) -> None:
    right, wrong = 0, []
    for index, (name, proto, inputs) in enumerate(cases()):
        if index % step:
            continue
        try:
            text = fault(proto, inputs)
        except (ModelError, ExecutionError):
            continue
        right += text is None
        wrong += [] if text is None else [f"{name}: {text}"]
    assert wrong == []
    assert right >= minimum


def test_every_eighth_case():
    check(8, minimum=120)


@pytest.mark.slow
def test_all_cases():
    check(1, minimum=1190)
