"""What of a value gets through a sum and an activation: its range is one to clip to."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import Range, collect_ranges, collect_statistics
from onnxlite.calibrate.reductions import collect_channel_statistics
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.runtime import Session
from onnxlite.samples import Samples

#: Two values, a side each of one sum; `a` and `b` are made so that nothing else reads them.
MODEL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] p, float[n,4] q) => (float[n,4] y)
    <float two = {{ -2 }}, float zero = {{ 0 }}, float six = {{ 6 }}>
    {{ a = Identity(p) b = {other}(q) s = Add(a, b) y = {activation} }}"""
#: `a` and `b` clipped to some ranges.
CLIPPED = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] p, float[n,4] q, float al, float ah, float bl, float bh) => (float[n,4] y)
    <float two = {{ -2 }}, float zero = {{ 0 }}, float six = {{ 6 }}>
    {{ a = Clip(p, al, ah) b0 = {other}(q) b = Clip(b0, bl, bh) s = Add(a, b)
       y = {activation} }}"""
NUMBERS = st.integers(-40, 40).map(lambda n: n / 4)


def shaped(text: str) -> ir.Model:
    model = load(onnx.parser.parse_model(text))
    infer_shapes(model)
    return model


def ranges(text: str, feed: dict[str, np.ndarray], names: list[str]) -> dict[str, Range]:
    model = shaped(text)
    return collect_ranges(model, names, Samples(feed, input_specs(model)))


@settings(deadline=None, max_examples=60)
@given(
    p=st.lists(NUMBERS, min_size=4, max_size=4),
    q=st.lists(NUMBERS, min_size=4, max_size=4),
    activation=st.sampled_from(["Relu(s)", "Clip(s, zero, six)", "Clip(s, two, six)"]),
    other=st.sampled_from(["Identity", "Relu"]),
)
def test_clipping_to_the_range_changes_nothing(p, q, activation, other) -> None:
    feed = {k: np.array([v], np.float32) for k, v in (("p", p), ("q", q))}
    names = {"activation": activation, "other": other}
    found = ranges(MODEL.format(**names), feed, ["a", "b"])
    limits = {
        f"{value}{side[0]}": np.array(pick(0.0, getattr(found[value], side)), np.float32)
        for value in "ab"
        for side, pick in (("low", min), ("high", max))
    }
    want = Session(load(onnx.parser.parse_model(MODEL.format(**names)))).run(feed)["y"]
    clipped = load(onnx.parser.parse_model(CLIPPED.format(**names)))
    got = Session(clipped).run(feed | limits)["y"]
    assert np.array_equal(want, got)
    whole = {"a": feed["p"], "b": np.maximum(feed["q"], 0) if other == "Relu" else feed["q"]}
    for value, array in whole.items():
        assert limits[f"{value}l"] >= min(array.min(), 0)
        assert limits[f"{value}h"] <= max(array.max(), 0)


def test_what_lies_below_the_other_side_is_not_heard() -> None:
    feed = {"p": np.array([[-9, -1, 2, 5]], np.float32), "q": np.array([[3, 4, 1, -7]], np.float32)}
    found = ranges(MODEL.format(activation="Relu(s)", other="Relu"), feed, ["a", "b"])
    assert found["a"] == Range(-3.0, 5.0)
    # The other one is behind a Relu: that it is not negative is all there is to know.
    assert found["b"] == Range(0.0, 4.0)


def test_a_sum_of_two_is_one_whatever_its_operator() -> None:
    text = MODEL.format(activation="Relu(s)", other="Relu").replace("Add(", "Sum(")
    feed = {"p": np.array([[-9, -1, 2, 5]], np.float32), "q": np.full((1, 4), 3, np.float32)}
    assert ranges(text, feed, ["a"])["a"] == Range(-3.0, 5.0)


def test_statistics_are_of_what_is_heard() -> None:
    model = shaped(MODEL.format(activation="Relu(s)", other="Relu"))
    feed = {"p": np.full((8, 4), -9, np.float32), "q": np.ones((8, 4), np.float32)}
    samples = Samples(feed, input_specs(model))
    seen = collect_statistics(model, ["a"], samples)["a"]
    assert seen.range == Range(-1.0, -1.0)
    middles, counts = seen.histogram.occupied()
    assert middles == pytest.approx([-1.0], abs=1e-3)
    assert counts.sum() == 32
    by_channel = collect_channel_statistics(model, {"a": 1}, samples)["a"]
    assert by_channel.low.tolist() == [-1.0] * 4


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("s = Add(a, b) y = Relu(s) z = Neg(a)", "float[n,4] y, float[n,4] z"),
        ("s = Add(a, b) y = Relu(s)", "float[n,4] y, float[n,4] s"),
        ("s = Mul(a, b) y = Relu(s)", "float[n,4] y"),
        ("s = Sum(a, b, b) y = Relu(s)", "float[n,4] y"),
        ("s = Add(a, b) y = Sigmoid(s)", "float[n,4] y"),
        ("s = Add(a, k) y = Relu(s)", "float[n,4] y"),
        ("c = Identity(k) s = Add(a, c) y = Relu(s)", "float[n,4] y"),
        ("s = Add(a, a) y = Relu(s)", "float[n,4] y"),
    ],
    ids=[
        "two-readers",
        "sum-is-read",
        "product",
        "three",
        "no-bounds",
        "constant",
        "broadcast",
        "itself",
    ],
)
def test_everything_is_heard_elsewhere(body: str, outputs: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] p, float[n,4] q) => ({outputs}) <float[1,4] k = {{1, 1, 1, 1}}>
        {{ a = Identity(p) b = Relu(q) {body} }}"""
    feed = {"p": np.array([[-9, -1, 2, 5]], np.float32), "q": np.ones((1, 4), np.float32)}
    assert ranges(text, feed, ["a"])["a"] == Range(-9.0, 5.0)
