"""How long a step takes is found out without harm, whatever the model is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxlite.errors import UnsupportedError
from onnxlite.model import load, to_bytes
from onnxlite.search import Budget, optimize
from onnxlite.tune.pace import step_seconds
from tests.odd_models import parse

X = np.random.default_rng(0).standard_normal((96, 8)).astype(np.float32)


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
    assert 0 < step_seconds(model, X) < 10
    assert to_bytes(model) == before


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
    outcome = optimize(model, samples=X, budget=Budget(max_drop=0.5), time_limit=60, cache=False)
    assert outcome.report.search.stopped == "finished"


def test_a_model_without_weights():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,8] y)
        { y = Relu(x) }"""
    with pytest.raises(UnsupportedError, match="no constant"):
        step_seconds(load(parse(text)), X)
