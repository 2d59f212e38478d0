"""Statistics of shards are those of the whole: ranges and histograms bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxlite import quantize_static
from onnxlite.calibrate import collect_ranges, collect_sharded, collect_statistics
from onnxlite.calibrate.moments import Moments
from onnxlite.errors import SamplesError
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.samples import Samples
from onnxlite.workers import Workers
from tests.search.nets import images, net

NAMES = ["x", "r", "r2", "y"]


def equal(one, two):
    return (
        one.range == two.range
        and one.average == two.average
        and (one.histogram.exponent, one.histogram.first)
        == (two.histogram.exponent, two.histogram.first)
        and np.array_equal(one.histogram.counts, two.histogram.counts)
    )


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 99])
def test_shards_give_what_one_pass_gives(shards):
    model = load(net())
    samples = Samples(images(44), input_specs(model))
    whole = collect_statistics(model, NAMES, samples)
    with ThreadPoolExecutor(2) as executor:
        parts = collect_sharded(model, NAMES, samples, Workers(executor), shards=shards)
    assert parts.keys() == whole.keys()
    assert all(equal(parts[name], whole[name]) for name in NAMES)
    ranges = collect_ranges(model, NAMES, samples)
    assert {name: seen.range for name, seen in parts.items()} == ranges


@pytest.mark.parametrize("shards", [1, 3, 99])
def test_of_many_samples_shards_take_elements_of_the_same_feeds(shards):
    model = load(net())
    samples = Samples(images(600), input_specs(model))
    whole = collect_statistics(model, NAMES, samples)
    with ThreadPoolExecutor(2) as executor:
        parts = collect_sharded(model, NAMES, samples, Workers(executor), shards=shards)
    assert all(equal(parts[name], whole[name]) for name in NAMES)
    batches = Samples(list(np.split(images(600), 75)), samples.inputs)
    every = collect_statistics(model, NAMES, batches)
    # A list might hold batches of any size, so elements are taken of all.
    share = whole["r"].histogram.total / every["r"].histogram.total
    assert share == pytest.approx(128 / 600, rel=0.05)
    assert whole["r"].range == every["r"].range


def test_second_moments_merge_to_rounding():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (600, 1, 5)).astype(np.float32)
    y = rng.normal(-2, 1, (600, 1, 3)).astype(np.float32)
    whole = Moments.of(x, y)
    merged = Moments.of(x[:100], y[:100])
    for start, stop in ((100, 130), (130, 600)):
        merged = merged.merge(Moments.of(x[start:stop], y[start:stop]))
    assert merged.rows == whole.rows
    for field in ("mean_x", "mean_y", "gram", "cross", "power"):
        one, two = getattr(merged, field), getattr(whole, field)
        assert np.allclose(one, two, rtol=1e-6, atol=1e-6 * np.abs(two).max())


def test_bad_data_are_an_error_and_no_dead_worker():
    model = load(net())
    bad = images(16)
    bad[12] = 3e38
    samples = Samples(bad, input_specs(model))
    with ThreadPoolExecutor(1) as executor:
        workers = Workers(executor)
        with pytest.raises(SamplesError, match="calibration"):
            collect_sharded(model, NAMES, samples, workers, shards=2)


@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_sharded_calibration_gives_the_same_model(observer):
    def quantized(executor):
        return quantize_static(
            net(),
            images(24),
            placement="everything",
            rounding="nearest",
            observer=observer,
            executor=executor,
        ).model.SerializeToString()

    with ThreadPoolExecutor(2) as executor:
        assert quantized(executor) == quantized(None)
