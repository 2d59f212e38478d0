"""Whole networks: what must be left of them, and that they compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxlite.model import load
from onnxlite.simplify import simplify
from onnxlite.simplify.pipeline import count_nodes
from onnxlite.simplify.verify import take_reference

FASHION = Path(__file__).parent.parent.parent / "models" / "fashion"
TO_NCHW, TO_NHWC = "Transpose<perm=[0,3,1,2]>", "Transpose<perm=[0,2,3,1]>"


def test_channels_last_net(simplified):
    """As converted from TensorFlow: every convolution between two Transposes."""
    result = simplified(
        "g (float[N,8,8,3] x, float[4,3,3,3] w, float[4] b, float[4,4,3,3] w2, float[4] b2,"
        " float[4,5] w3, float[5] b3) => (float[N,5] y) {"
        f" i = {TO_NCHW}(x) c = Conv<pads=[1,1,1,1]>(i, w) d = {TO_NHWC}(c) e = Add(d, b)"
        f" f = Relu(e) h = {TO_NCHW}(f) j = Conv<pads=[1,1,1,1]>(h, w2) k = {TO_NHWC}(j)"
        " l = Add(k, b2) m = Add(f, l) n = Relu(m)"
        " a = Constant<value = int64[2] {1, 2}>() o = ReduceMean<keepdims=0>(n, a)"
        " p = MatMul(o, w3) y = Add(p, b3) }"
    )
    assert dict(result.operators) == {
        "Transpose": 1, "Conv": 2, "Relu": 2, "Add": 1, "ReduceMean": 1, "Gemm": 1,
    }  # fmt: skip
    assert result.difference < 1e-5


def test_channel_shuffle_with_dynamic_batch(simplified):
    """The shape arithmetic of `x.view(n, 2, c // 2, h, w).transpose(1, 2).view(n, c, h, w)`."""
    result = simplified(
        "g (float[N,4,H,W] x) => (float[N,4,H,W] y) { s = Shape(x)"
        " i0 = Constant<value = int64 {0}>() i2 = Constant<value = int64 {2}>()"
        " i3 = Constant<value = int64 {3}>() k = Constant<value = int64[1] {0}>()"
        " two = Constant<value = int64[1] {2}>() four = Constant<value = int64[1] {4}>()"
        " a = Gather(s, i0) b = Gather(s, i2) c = Gather(s, i3) d = Unsqueeze(a, k)"
        " e = Unsqueeze(b, k) f = Unsqueeze(c, k) t = Concat<axis=0>(d, two, two, e, f)"
        " r = Reshape(x, t) p = Transpose<perm=[0,2,1,3,4]>(r)"
        " u = Concat<axis=0>(d, four, e, f) y = Reshape(p, u) }"
    )
    assert result.operators["Transpose"] == 1
    assert result.operators["Reshape"] == 2
    assert result.operators["Unsqueeze"] <= 3
    assert result.difference == 0


def test_squeeze_and_excite_with_hard_swish(simplified):
    result = simplified(
        "g (float[N,4,6,6] x, float[2,4,1,1] w, float[4,2,1,1] w2) => (float[N,4,6,6] y) {"
        " a = Constant<value = int64[2] {2, 3}>() three = Constant<value = float {3.0}>()"
        " six = Constant<value = float {6.0}>() zero = Constant<value = float {0.0}>()"
        " m = ReduceMean(x, a) c = Conv(m, w) d = Add(c, three) e = Clip(d, zero, six)"
        " f = Mul(c, e) g1 = Div(f, six) h = Conv(g1, w2) i = Add(h, three)"
        " j = Clip(i, zero, six) k = Div(j, six) y = Mul(x, k) }"
    )
    assert dict(result.operators) == {
        "GlobalAveragePool": 1, "Conv": 2, "HardSwish": 1, "HardSigmoid": 1, "Mul": 1,
    }  # fmt: skip
    assert result.difference < 1e-5


@pytest.mark.parametrize(("name", "most"), [("residual", 36), ("mobilenet", 43), ("vit", 104)])
def test_fashion_nets(name, most):
    path = FASHION / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: train it with `python -m models.train`")
    model = load(path)
    images = np.random.default_rng(0).random((4, 1, 28, 28), np.float32)
    result, report = simplify(load(path), samples=images, onnxsim=False)
    assert count_nodes(result) <= most
    assert not [d for d in report.skipped if "rolled back" in d.message]
    assert take_reference(model, samples=images).difference(result) is None
