"""How long a step takes is found out without harm, whatever the model is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxlite.cache import Cache
from onnxlite.errors import UnsupportedError
from onnxlite.model import load, to_bytes
from onnxlite.search.deadline import training_steps
from onnxlite.tune import step_timing as pace
from onnxlite.tune.step_timing import step_seconds
from tests.odd_models import parse

X = np.random.default_rng(0).standard_normal((96, 8)).astype(np.float32)


def steps_for(model):
    return training_steps(model, "digest", X, Cache.in_memory(), limit_s=None, latencies_ms=[0.01])


def net(tail: str, output: str):
    return load(
        parse(
            f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => ({output} y)
            <float[8,32] w, float[32,4] v> {{ h = MatMul(x, w) r = Relu(h) {tail} }}"""
        )
    )


def test_a_step_takes_time_and_changes_nothing():
    model = net("y = MatMul(r, v)", "float[n,4]")
    before = to_bytes(model)
    assert step_seconds(model, X) > 0
    assert to_bytes(model) == before
    assert steps_for(model) == 4000


@pytest.mark.parametrize(
    ("tail", "output"),
    [
        ("s = MatMul(r, v) y = ArgMax<axis=1, keepdims=0>(s)", "int64[n]"),
        ("s = MatMul(r, v) i = ArgMax<axis=1>(s) y = Cast<to=1>(i)", "float[n,1]"),
    ],
)
def test_outputs_without_gradient_are_no_reason_to_fail(tail, output):
    model = net(tail, output)
    with pytest.raises(UnsupportedError, match="gradient"):
        step_seconds(model, X)
    assert steps_for(model) == 0


def test_a_model_without_weights():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,8] y)
        { y = Relu(x) }"""
    with pytest.raises(UnsupportedError, match="no constant"):
        step_seconds(load(parse(text)), X)


def test_a_search_outlives_what_torch_does_not_run(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("strange model")

    monkeypatch.setattr(pace, "step_seconds", broken)
    assert steps_for(net("y = MatMul(r, v)", "float[n,4]")) == 0
    assert "please report it (RuntimeError: strange model)" in caplog.text
