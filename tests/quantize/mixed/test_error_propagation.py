"""Errors that are switched on one by one, and their noise at the outputs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.errors import SamplesError
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.quantize.mixed.baseline import Baseline, mask, plan_everything
from onnxlite.quantize.mixed.error_propagation import Source, propagate
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from onnxlite.step import StepContext
from tests.odd_models import parse

NETS = {
    "convolutions": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,5] y)
        <float[6,3,3,3] w, float[6] b, float[6,1,3,3] v, float[6] c, float[6,5] u, float[5] d>
        { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
          s = Conv<pads=[1,1,1,1], group=6>(r, v, c) q = Add(s, r)  p = Relu(q)
          a = GlobalAveragePool(p)  f = Flatten(a) y = Gemm(f, u, d) }""",
    "products": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,6] x) => (float[n,4,5] y, float[n,4,7] z)
        <float[6,7] w, float[7] b, float[7,5] v>
        { t = MatMul(x, w) z = Add(t, b) s = Sigmoid(z) y = MatMul(s, v) }""",
}
TARGET = TARGETS["cpu"]


def baseline_of(text: str, count: int = 24) -> tuple[Baseline, Samples]:
    model = load(parse(text))
    shape = [8 if d == "n" else d for d in input_specs(model)[0].shape]
    data = np.random.default_rng(0).standard_normal((count, *shape[1:])).astype(np.float32)
    samples = Samples(data, input_specs(model))
    planned = plan_everything(model, TARGET, include=(), exclude=())
    assert not isinstance(planned, Skipped)
    return Baseline(planned[0], samples, StepContext(threads=1)), samples


@pytest.mark.parametrize("net", NETS)
def test_errors_are_those_of_the_quantized_model(net: str) -> None:
    """Any set of layers: switched on, and really quantized, with the same outputs."""
    baseline, samples = baseline_of(NETS[net])
    errors = baseline.errors()
    names = [node.name for node in baseline.layers]
    feed = next(iter(samples))
    exact = Session(baseline.plan.model, threads=1).run(feed)
    sets = [names, *([name] for name in names), *(names[:i] for i in range(2, len(names)))]
    for layers in sets:
        have = errors.run(feed, mask(errors, baseline.sources(layers)))
        want = Session(baseline.quantized(layers), optimization="none").run(feed)
        for name, array in want.items():
            # A value on the edge between two integers may fall to the other side.
            noise = np.median(np.abs(array - exact[name]))
            # Beside other layers a value may have float readers that are not told apart here.
            bound = 0.05 if layers == names else 0.3
            assert np.median(np.abs(have[name] - array)) <= bound * noise


def test_without_errors_it_is_the_float_model() -> None:
    baseline, samples = baseline_of(NETS["products"])
    errors = baseline.errors()
    feed = next(iter(samples))
    have = errors.run(feed, np.zeros(len(errors.sources), np.bool_))
    for name, array in Session(baseline.plan.model).run(feed).items():
        np.testing.assert_allclose(have[name], array, atol=1e-6)


def test_noise_is_that_of_all_samples_when_every_sample_meets_every_set() -> None:
    baseline, samples = baseline_of(NETS["convolutions"])
    errors = baseline.errors()
    count = len(errors.sources)
    sets = [np.arange(count) == index for index in range(count)]
    noise = propagate(errors, samples, sets, per_set=24)
    assert noise.parts == ("y",)
    assert noise.samples == 24
    signal, together, energy = 0.0, 0.0, np.zeros(count)
    for feed in samples:
        want = errors.run(feed, np.zeros(count, np.bool_))["y"].astype(np.float64)
        signal += np.square(want).sum()
        together += np.square(errors.run(feed, np.ones(count, np.bool_))["y"] - want).sum()
        energy += [np.square(errors.run(feed, on)["y"] - want).sum() for on in sets]
    assert noise.together[0] == pytest.approx(together / signal, rel=1e-3)
    np.testing.assert_allclose(noise.sets[:, 0], energy / signal, rtol=1e-3)
    np.testing.assert_allclose(noise.fractions[:, 0], energy / together, rtol=1e-3)


def test_a_share_of_the_samples_tells_nearly_the_same() -> None:
    baseline, samples = baseline_of(NETS["convolutions"], 64)
    errors = baseline.errors()
    count = len(errors.sources)
    sets = [np.arange(count) == index for index in range(count)]
    few = propagate(errors, samples, sets, per_set=8).sets[:, 0]
    every = propagate(errors, samples, sets, per_set=64).sets[:, 0]
    assert np.sqrt(np.mean((10 * np.log10(few / every)) ** 2)) < 2.5
    assert np.corrcoef(np.log(few), np.log(every))[0, 1] > 0.8


def test_sources_of_a_layer_are_its_weight_and_the_values_around_it() -> None:
    baseline, _ = baseline_of(NETS["convolutions"])
    first, *_, last = (node.name or "" for node in baseline.layers)
    assert baseline.sources([first]) == {
        Source("value", "x"),
        Source("weight", first),
        Source("value", "r"),
    }
    assert baseline.sources([last]) == {Source("value", "f"), Source("weight", last)}


def test_outputs_of_zeros_are_refused() -> None:
    model = load(
        parse("""<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,3] y)
        <float[4,3] w = {0,0,0,0,0,0,0,0,0,0,0,0}> { y = MatMul(x, w) }""")
    )
    samples = Samples(np.ones((4, 4), np.float32), input_specs(model))
    planned = plan_everything(model, TARGET, include=(), exclude=())
    assert not isinstance(planned, Skipped)
    baseline = Baseline(planned[0], samples, StepContext(threads=1))
    errors = baseline.errors()
    with pytest.raises(SamplesError, match="zero"):
        propagate(errors, samples, [])
