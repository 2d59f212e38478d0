"""Statistics from the samples that ONNX Runtime takes, against NumPy on whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxlite.calibrate import (
    Range,
    SampleLimits,
    ValueStatistics,
    collect_ranges,
    collect_statistics,
    merge_statistics,
)
from onnxlite.calibrate.collect import collect_part
from onnxlite.calibrate.taps import tap_summaries
from onnxlite.errors import SamplesError
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Samples
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,20,20] x) => (float[n,8,20,20] y)
    <float[8,4,1,1] w>
    { t = Conv(x, w) r = Relu(t) y = Tanh(r) }"""
#: How elements lie by samples cannot be told: the length is not fixed.
SEQUENCE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,s,16] x) => (float[n,s,16] y) { r = Relu(x) y = Tanh(r) }"""


def parsed(text: str) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(parse(text))


def statistics(
    text: str, data: np.ndarray, names: list[str], batch: int = 8
) -> dict[str, ValueStatistics]:
    model = load(parsed(text))
    return collect_statistics(model, names, Samples(data, input_specs(model), batch_size=batch))


def images(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 4, 20, 20)) * rng.gamma(1, size=(count, 1, 1, 1))).astype(
        np.float32
    )


def same(a: ValueStatistics, b: ValueStatistics) -> bool:
    one, two = a.histogram, b.histogram
    return (
        (a.range, a.average) == (b.range, b.average)
        and (one.exponent, one.first) == (two.exponent, two.first)
        and np.array_equal(one.counts, two.counts)
        and same_limits(a.limits, b.limits)
    )


def same_limits(a: SampleLimits, b: SampleLimits) -> bool:
    sides = ((a.lows, b.lows), (a.highs, b.highs))
    return (a.count, a.kept, a.whole) == (b.count, b.kept, b.whole) and all(
        np.array_equal(one.limits, two.limits) and np.array_equal(one.samples, two.samples)
        for one, two in sides
    )


def test_shards_merge_to_one_pass_bit_by_bit() -> None:
    data = images(24)
    whole = statistics(NET, data, ["x", "r", "y"])
    model = load(parsed(NET))
    shards = [
        collect_part(
            model,
            ["x", "r", "y"],
            Samples(data[first : first + 8], input_specs(model)),
            fraction=1.0,
            first=(first // 8, first),
        )
        for first in (16, 0, 8)
    ]
    merged = merge_statistics(shards)
    assert merged.keys() == whole.keys()
    assert all(same(merged[name], whole[name]) for name in whole)
    # The average has a weight per feed; all else does not know about feeds.
    other = statistics(NET, data, ["r"], batch=3)["r"]
    assert np.array_equal(other.histogram.counts, whole["r"].histogram.counts)
    assert other.range == whole["r"].range


@pytest.mark.parametrize("batch", [1, 8])
def test_sample_has_the_distribution_of_the_whole(batch: int) -> None:
    data = images(16, seed=1)
    got = statistics(NET, data, ["r"], batch=batch)["r"]
    model = load(parsed(NET))
    exact = Session(tapped(model, ["r"])).run({"x": data})["r"]
    assert got.range.low == 0
    assert got.range.high == pytest.approx(exact.max())
    middles, counts = got.histogram.occupied()
    # Every seventh of 3,200 elements.
    assert got.histogram.total == 16 * 457
    assert (counts @ middles) / counts.sum() == pytest.approx(exact.mean(), rel=0.1)
    assert (counts @ middles**2) / counts.sum() == pytest.approx((exact**2).mean(), rel=0.2)


def test_large_images_behind_an_activation_are_looked_at_on_a_lattice() -> None:
    text = NET.replace("20,20", "64,61")
    rng = np.random.default_rng(2)
    data = rng.standard_normal((8, 4, 64, 61)).astype(np.float32)
    model = load(parsed(text))
    probe, taps = tap_summaries(model, ["t", "r", "y"], sample=True)
    assert list(taps) == ["t", "r", "y"]
    assert sum(node.op_type == "MaxPool" for node in probe.graph) == 1
    got = statistics(text, data, ["t", "r", "y"])
    exact = Session(tapped(model, ["t", "r", "y"])).run({"x": data})
    for name in ("t", "r", "y"):
        assert got[name].range.high == pytest.approx(exact[name].max())
        assert got[name].range.low == pytest.approx(exact[name].min())
        assert 8 * 450 < got[name].histogram.total <= 8 * 512
    middles, counts = got["r"].histogram.occupied()
    assert (counts @ middles) / counts.sum() == pytest.approx(exact["r"].mean(), rel=0.1)


def test_open_shapes_are_sampled_by_feed() -> None:
    rng = np.random.default_rng(0)
    feeds = [rng.standard_normal((2, length, 16)).astype(np.float32) for length in (5, 400)]
    model = load(parsed(SEQUENCE))
    seen = collect_statistics(model, ["r"], Samples(feeds, input_specs(model)))["r"]
    assert seen.histogram.total == 2 * 4096
    assert seen.range.high == pytest.approx(max(feed.max() for feed in feeds))
    middles, counts = seen.histogram.occupied()
    mean = np.mean([np.maximum(feed, 0).mean() for feed in feeds])
    assert (counts @ middles) / counts.sum() == pytest.approx(mean, rel=0.05)


def test_small_values_are_taken_whole() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,5] x) => (float[n,5] y) { y = Tanh(x) }"""
    data = np.arange(50, dtype=np.float32).reshape(10, 5)
    seen = statistics(text, data, ["x"])["x"].histogram
    assert seen.total == 50
    assert seen.counts.max() == 1


#: How many rows there are depends on the data; `r` may have none.
FOUND = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,4] y, float[m] z)
    { i = NonZero(x) c = Cast<to=1>(i) r = Relu(c) z = ReduceMax<axes=[0], keepdims=0>(r)
      y = Tanh(x) }"""


@pytest.mark.parametrize("names", [["c"], ["r"], ["x", "r", "c"]])
def test_values_without_elements_on_some_samples(names: list[str]) -> None:
    data = np.zeros((3, 4), np.float32)
    data[1, 2] = 1
    seen = statistics(FOUND, data, names, batch=1)
    assert list(seen) == names
    model = load(parsed(FOUND))
    ranges = collect_ranges(model, names, Samples(data, input_specs(model), batch_size=1))
    for name in names[-1:]:
        assert ranges[name] == seen[name].range == Range(0.0, 2.0)
        assert seen[name].average.feeds == 1


@pytest.mark.parametrize("collect", [collect_statistics, collect_ranges])
def test_a_value_without_elements_on_any_sample_is_an_error(collect: Callable[..., Any]) -> None:
    model = load(parsed(FOUND))
    samples = Samples(np.zeros((3, 4), np.float32), input_specs(model))
    with pytest.raises(SamplesError, match="'r' is empty on every calibration sample: give"):
        collect(model, ["x", "r"], samples)


def test_elements_are_taken_of_all_feeds_if_some_have_none() -> None:
    """Only one feed of 600 has elements of `r`, and not one that is looked at first."""
    data = np.zeros((600, 4), np.float32)
    data[101, 2] = 1
    seen = statistics(FOUND, data, ["x", "r"], batch=1)
    assert seen["r"].range == Range(0.0, 2.0)
    assert seen["r"].histogram.total
    assert seen["x"].histogram.total == 600 * 4


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 10, 13])
def test_what_has_a_period_is_seen_evenly(period: int) -> None:
    """A class for each remainder: of each about as many samples are looked at."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,1] x) => (float[n,1] y) { y = Tanh(x) }"""
    data = (np.arange(1300, dtype=np.float32) % period)[:, None]
    histogram = statistics(text, data, ["x"], batch=1)["x"].histogram
    _, counts = histogram.occupied()
    assert histogram.total == pytest.approx(128, abs=2)
    assert len(counts) == period
    assert counts.min() >= 0.5 * 128 / period
    assert counts.max() <= 1.5 * 128 / period


def test_no_values_have_no_statistics() -> None:
    assert statistics(NET, images(8), []) == {}
