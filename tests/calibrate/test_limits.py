"""Limits of single samples: against NumPy on whole tensors, and merged in any order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.calibrate import Range, SampleLimits, ValueStatistics, collect_statistics
from onnxlite.calibrate.limits import limits_kept
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Samples
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,6,6] x) => (float[4,n,6,6] y)
    <float[8,4,1,1] w>
    { t = Conv(x, w) r = Relu(t) s = Tanh(x) y = Transpose<perm=[1,0,2,3]>(s) }"""


def collected(data: np.ndarray, names: list[str], **options) -> dict[str, ValueStatistics]:
    model = load(onnx.shape_inference.infer_shapes(parse(NET)))
    return collect_statistics(
        model, names, Samples(data, input_specs(model), **options), elements=False
    )


def of(limits: list[tuple[float, float]], *, kept: int = 8) -> SampleLimits:
    lows, highs = np.array(limits, np.float64).reshape(-1, 2).T
    return SampleLimits.of(lows, highs, np.arange(len(limits)), kept=kept)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_equal_to_numpy_whatever_the_batch(batch: int) -> None:
    data = np.random.default_rng(0).standard_normal((10, 4, 6, 6)).astype(np.float32)
    got = collected(data, ["x", "t", "r", "y"], batch_size=batch)
    model = load(onnx.shape_inference.infer_shapes(parse(NET)))
    made = {"x": data, **Session(tapped(model, ["t", "r", "y"])).run({"x": data})}
    for name, seen in got.items():
        axis = 1 if name == "y" else 0
        rows = np.moveaxis(made[name], axis, 0).reshape(10, -1)
        assert seen.limits.count == 10
        assert not seen.limits.whole
        order = np.argsort(-rows.max(1))
        assert seen.limits.highs.samples.tolist() == order.tolist()
        assert np.allclose(seen.limits.highs.limits, rows.max(1)[order], rtol=1e-5)
        lows = 0.0 if name == "r" else rows.min(1)[np.argsort(rows.min(1))]
        assert np.allclose(seen.limits.lows.limits, lows, rtol=1e-5)
        assert seen.limits.without([]) == Range(*np.float32([seen.range.low, seen.range.high]))


def test_values_that_hide_their_samples_have_limits_of_feeds() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[m,2] y)
        { s = Constant<value_ints=[-1, 2]>() r = Reshape(x, s) y = Tanh(r) }"""
    model = load(parse(text))
    data = np.arange(32, dtype=np.float32).reshape(8, 4)
    samples = Samples(data, input_specs(model), batch_size=4)
    found = collect_statistics(model, ["x", "y"], samples, elements=False)
    assert not found["x"].limits.whole
    assert found["y"].limits.whole
    assert found["y"].limits.count == 2
    assert sorted(found["y"].limits.highs.samples.tolist()) == [0, 4]


@given(
    st.lists(st.tuples(st.integers(-9, 0), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(1, 39),
    st.integers(1, 12),
)
def test_parts_merge_to_the_whole_in_any_order(limits, cut, kept) -> None:
    lows, highs = np.array(limits, np.float64).T
    numbers = np.arange(len(limits))
    whole = SampleLimits.of(lows, highs, numbers, kept=kept)
    parts = [
        SampleLimits.of(lows[part], highs[part], numbers[part], kept=kept)
        for part in (slice(cut), slice(cut, None))
    ]
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        for side in ("lows", "highs"):
            one, two = getattr(merged, side), getattr(whole, side)
            assert np.array_equal(one.limits, two.limits)
            assert np.array_equal(one.samples, two.samples)
        assert merged.count == whole.count


def test_range_without_samples_and_samples_beyond_a_range() -> None:
    seen = of([(-1, 2), (-8, 3), (-1, 9), (-2, 1)])
    assert seen.without([]) == Range(-8, 9)
    assert seen.without([1]) == Range(-2, 9)
    assert seen.without([1, 2]) == Range(-2, 2)
    assert seen.without(range(4)) is None
    assert seen.beyond(Range(-2, 2)) == {1: 6 / 4, 2: 7 / 4}
    assert seen.beyond(Range(-8, 9)) == {}
    assert seen.inner(0.25) == Range(-2, 3)


def test_memory_does_not_grow_with_samples() -> None:
    data = np.random.default_rng(0).standard_normal((3000, 4, 6, 6)).astype(np.float32)
    seen = collected(data, ["x"], batch_size=100)["x"].limits
    rows = data.reshape(3000, -1)
    assert seen.count == 3000
    assert len(seen.highs.limits) == limits_kept(1) == 1024
    assert seen.highs.samples.tolist() == np.argsort(-rows.max(1), kind="stable")[:1024].tolist()
    assert limits_kept(10_000) == 64
