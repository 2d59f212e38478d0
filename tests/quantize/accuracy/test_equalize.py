"""Equalization: the same function, less noise, and undone where it does not help."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import collect_ranges
from onnxlite.fidelity import OutputErrors
from onnxlite.graph import const_array
from onnxlite.inputs import input_specs
from onnxlite.model import clone, load
from onnxlite.normalize import normalize
from onnxlite.quantize import quantize_static
from onnxlite.quantize.accuracy import equalize as equalization
from onnxlite.quantize.accuracy.equalize import equalize
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Samples
from tests.odd_models import parse

CPU = TARGETS["cpu"]
TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,5,8,8] y)
    <float[12,3,3,3] w, float[12] b, float[12,1,3,3] d, float[12] e, float[5,12,1,1] v>
    { lo = Constant<value_float=0.0>() hi = Constant<value_float=6.0>()
      t = Conv<pads=[1,1,1,1]>(x, w, b) r = Clip(t, lo, hi)
      s = Conv<pads=[1,1,1,1], group=12>(r, d, e) q = Relu(s) y = Conv(q, v) }"""


def uneven() -> ir.Model:
    """A net whose channels have ranges from 1 to 1/30."""
    model = load(parse(TEXT))
    normalize(model)
    infer_shapes(model)
    spread = np.geomspace(1, 1 / 30, 12)
    for name, factor in (("w", 0.3 * spread), ("b", 0.1 * spread)):
        value = model.graph.initializers[name]
        array = const_array(value)
        assert array is not None
        scaled = array * factor.reshape([-1] + [1] * (array.ndim - 1))
        value.const_value = ir.tensor(scaled.astype(np.float32), name=name)
    value = model.graph.initializers["v"]
    array = const_array(value)
    assert array is not None
    scaled = array / spread.reshape(1, -1, 1, 1)
    value.const_value = ir.tensor(scaled.astype(np.float32), name="v")
    return model


def cpu_plan(model: ir.Model) -> QuantPlan:
    return QuantPlan(model, place(model, CPU), CPU)


def equalized(model: ir.Model, samples: Samples) -> int | Skipped:
    plan = cpu_plan(model)
    return equalize(plan, samples, collect_ranges(model, plan.placement.value_names, samples))


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)


def noise(model: ir.Model, data: np.ndarray) -> float:
    want = Session(uneven()).run({"x": data})["y"]
    got = Session(model).run({"x": data})["y"]
    return float(((want - got) ** 2).sum() / (want**2).sum())


def test_weak_channels_are_scaled_and_the_function_stays():
    model, before = uneven(), uneven()
    samples = Samples(images(64, 0), input_specs(model))
    count = equalized(model, samples)
    assert isinstance(count, int)
    assert count >= 4
    data = images(16, 1)
    want, got = (Session(m).run({"x": data})["y"] for m in (before, model))
    np.testing.assert_allclose(got, want, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_noise_falls(rounding):
    made = [
        quantize_static(
            uneven(),
            images(128, 0),
            placement="everything",
            rounding=rounding,
            equalize=wanted,
        )
        for wanted in (False, True)
    ]
    plain, equalized = (noise(model, images(64, 1)) for model, _ in made)
    assert equalized < plain * 0.95
    assert made[0].report.changes.channels_equalized == 0
    assert made[1].report.changes.channels_equalized >= 4


def test_a_channel_that_reaches_the_bound_of_its_activation_is_left():
    model = uneven()
    bias = model.graph.initializers["b"]
    array = const_array(bias)
    assert array is not None
    strong = array.copy()
    strong[11] = 7.0
    bias.const_value = ir.tensor(strong, name="b")
    before = clone(model)
    samples = Samples(images(64, 0), input_specs(model))
    assert isinstance(equalized(model, samples), int)
    data = images(16, 1)
    want, got = (Session(m).run({"x": data})["y"] for m in (before, model))
    np.testing.assert_allclose(got, want, atol=1e-5 * float(np.abs(want).max()))
    first = next(node for node in model.graph if node.op_type == "Conv")
    scaled = const_array(first.inputs[2])
    assert scaled is not None
    assert scaled[11] == strong[11]


@pytest.mark.parametrize(("noises", "taken"), [([0.3, 0.2, 1.0], 1.0), ([0.2, 0.3, 1.0], 0.9)])
def test_a_range_is_filled_as_far_as_does_best_on_samples_held_out(monkeypatch, noises, taken):
    waiting = iter(noises)
    monkeypatch.setattr(OutputErrors, "noise_ratio", property(lambda _: next(waiting)))
    model, expected = uneven(), uneven()
    samples = Samples(images(64, 0), input_specs(model))
    assert isinstance(equalized(model, samples), int)
    monkeypatch.undo()
    monkeypatch.setattr(equalization, "_RANGE_MARGINS", (taken,))
    equalized(expected, samples)
    weights = [
        [const_array(node.inputs[1]) for node in each.graph if node.op_type == "Conv"]
        for each in (model, expected)
    ]
    for got, want in zip(*weights, strict=True):
        np.testing.assert_array_equal(got, want)


def test_it_is_undone_where_it_does_not_help(monkeypatch):
    monkeypatch.setattr(equalization, "_MIN_GAIN", 1.0)
    model, before = uneven(), uneven()
    samples = Samples(images(64, 0), input_specs(model))
    outcome = equalized(model, samples)
    assert isinstance(outcome, Skipped)
    assert "held out" in outcome.message
    assert set(model.graph.initializers) == set(before.graph.initializers)
    for name, value in before.graph.initializers.items():
        kept = const_array(model.graph.initializers[name])
        assert np.array_equal(const_array(value), kept)


def test_nothing_to_scale_is_said():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => (float[n,4] y)
        <float[3,4] w> { y = MatMul(x, w) }"""
    model = load(parse(text))
    normalize(model)
    infer_shapes(model)
    data = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    outcome = equalized(model, Samples(data, input_specs(model)))
    assert isinstance(outcome, Skipped)
    assert "no channel" in outcome.message
