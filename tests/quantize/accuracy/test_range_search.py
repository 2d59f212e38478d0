"""Observers in static quantization: absorbed activations, shared scales, fixed types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.calibrate import OBSERVERS, Range
from onnxlite.calibrate.taps import tap_summaries
from onnxlite.fidelity import Reference
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.accuracy.consumer_error import consumer_errors
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.prepare import prepare
from onnxlite.quantize.core.qtypes import dequantize, quantize
from onnxlite.quantize.core.scales import params_for_activation
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import target_named
from onnxlite.runtime import Session
from tests.odd_models import parse

CLIP = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,4,4] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float lo = {0}, float hi = {1}>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Clip(t, lo, hi)
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, v, c) }"""


def images(count: int = 32) -> np.ndarray:
    """Mostly small numbers, with outliers that some observers cut off."""
    return np.random.default_rng(0).standard_t(3, (count, 4, 8, 8)).astype(np.float32)


def quantized(text: str, observer: str, target: str = "cpu") -> ir.Model:
    result = quantize_static(
        parse(text),
        images(),
        observer=observer,
        target=target,
        rounding="nearest",
        placement="everything",
    ).model
    onnx.checker.check_model(result, full_check=True)
    return load(result)


def quantizers(model: ir.Model) -> dict[str, ir.Node]:
    return {
        node.inputs[0].name or "": node for node in model.graph if node.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize("observer", OBSERVERS)
def test_absorbed_clip_and_shared_scale_hold(observer: str) -> None:
    model = quantized(CLIP, observer)
    assert not any(node.op_type == "Clip" for node in model.graph)
    of_conv = quantizers(model)["t"]
    scale, zero = (const_array(value) for value in of_conv.inputs[1:])
    assert zero == 0
    assert scale <= np.float32(1 / 255)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    after = next(iter(pool.outputs[0].uses())).node
    assert after.inputs[1] is of_conv.inputs[1]
    feed = {"x": images(4)}
    want, got = Session(load(parse(CLIP))).run(feed)["y"], Session(model).run(feed)["y"]
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 20


@pytest.mark.parametrize("observer", OBSERVERS)
def test_symmetric_types_keep_their_zero(observer: str) -> None:
    model = quantized(CLIP, observer, target="cpu-arm")
    for node in quantizers(model).values():
        zero = const_array(node.inputs[2])
        assert zero is not None
        assert zero.dtype == np.int8
        assert zero in (-128, -127, 0)


def test_observers_differ_and_cut_outliers() -> None:
    scales = {
        observer: float(const_array(quantizers(quantized(CLIP, observer))["x"].inputs[1]))
        for observer in OBSERVERS
    }
    # There are too few elements for a percentile to leave one out.
    assert len(set(scales.values())) == len(scales) - 1
    assert scales["percentile"] == scales["minmax"]
    assert max(scales, key=lambda name: scales[name]) == "minmax"


#: One channel of large numbers that the layer behind it hardly listens to.
DEAF = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,8,8] y)
    <float[4,4,1,1] w> { y = Conv(x, w) }"""


def deaf() -> onnx.ModelProto:
    proto = parse(DEAF)
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    weight[:, 0] = 1e-4
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def loud(count: int = 64) -> np.ndarray:
    data = np.random.default_rng(0).uniform(0, 1, (count, 4, 8, 8)).astype(np.float32)
    data[:, 0] *= 1 + 0.3 * (np.arange(count) % 2 == 0)[:, None, None]
    return data


def test_harm_is_measured_at_the_reader() -> None:
    """Clipping a channel with hardly any weight does no harm there, whatever its error."""
    model, data = load(deaf()), loud(4)
    prepare(model)
    row = target_named("cpu")
    plan = QuantPlan(model, place(model, row), row)
    candidates = [Range(0, 1.3), Range(0, 1.0), Range(0, 0.5)]
    params = {"x": [params_for_activation(one, row) for one in candidates]}
    feeds = [{"x": image[None]} for image in data]
    got = consumer_errors(plan, params, feeds, threads=1)["x"]
    want = []
    session = Session(load(deaf()))
    signal = session.run({"x": data})["y"]
    for one in params["x"]:
        error = dequantize(quantize(data, one), one) - data
        want.append((session.run({"x": error})["y"] ** 2).sum() / (signal**2).sum())
    np.testing.assert_allclose(got, want, rtol=1e-3)
    assert got[1] < got[0] < got[2]


def tailed() -> np.ndarray:
    """So many numbers that the largest are worth clipping."""
    return np.random.default_rng(0).laplace(size=(400, 4, 8, 8)).astype(np.float32)


def test_auto_takes_the_range_that_does_least_harm() -> None:
    result, reports = {}, {}
    for observer in ("minmax", "auto"):
        result[observer], reports[observer] = quantize_static(
            parse(DEAF),
            tailed(),
            observer=observer,
            target="cpu",
            rounding="nearest",
            placement="everything",
        )
    whole, chosen = (
        float(const_array(quantizers(load(model))["x"].inputs[1])) for model in result.values()
    )
    assert 0.6 * whole < chosen < 0.95 * whole
    assert not [row for row in reports["auto"].skipped if row.what == "observer"]


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_auto_takes_any_number_of_samples(count: int) -> None:
    report = quantize_static(parse(CLIP), images(count), observer="auto", rounding="nearest").report
    said = [row.message for row in report.skipped if row.what == "observer"]
    assert (count == 1) == any("too few samples" in reason for reason in said)


def test_auto_with_open_shapes_and_fixed_batches() -> None:
    sequence = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,s,8] x) => (float[n,s,8] y) <float[8,8] w, float[8,8] v>
        { t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }"""
    rng = np.random.default_rng(0)
    feeds = [rng.standard_t(3, (2, length, 8)).astype(np.float32) for length in (3, 9, 5, 7)]
    for text, data in ((sequence, feeds), (CLIP.replace("[n,", "[2,"), images())):
        result = load(quantize_static(parse(text), data, observer="auto", rounding="nearest").model)
        feed = {"x": data[0] if isinstance(data, list) else data[:2]}
        want, got = Session(load(parse(text))).run(feed)["y"], Session(result).run(feed)["y"]
        assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 15


def test_auto_keeps_minmax_where_its_choice_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    rated = iter([30.0, 28.0, 29.0])
    monkeypatch.setattr(Reference, "sqnr_db", lambda *_: next(rated))
    options = {"rounding": "nearest", "placement": "everything"}
    auto, report = quantize_static(parse(DEAF), tailed(), observer="auto", **options)
    plain = quantize_static(parse(DEAF), tailed(), observer="minmax", **options).model
    assert auto.SerializeToString() == plain.SerializeToString()
    assert any("29.0 dB and the whole ones 30.0 dB" in row.message for row in report.skipped)


@pytest.mark.parametrize(("decibels", "best"), [([30.0, 28.0, 31.0], "mse"), ([9, 9.2, 9.1], None)])
def test_auto_takes_what_holds_at_the_outputs(
    monkeypatch: pytest.MonkeyPatch, decibels: list[float], best: str | None
) -> None:
    """Of the choice by harm and that by squared error, if either is clearly better."""
    rated = iter(decibels)
    monkeypatch.setattr(Reference, "sqnr_db", lambda *_: next(rated))
    options = {"rounding": "nearest", "placement": "everything"}
    auto = quantize_static(parse(DEAF), tailed(), observer="auto", **options).model
    other = quantize_static(parse(DEAF), tailed(), observer=best or "minmax", **options).model
    assert auto.SerializeToString() == other.SerializeToString()


def test_histograms_do_not_copy_values_out() -> None:
    """What leaves a run is bounded, whatever the size of a value."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,256,256] x) => (float[n,3,256,256] y) { y = Relu(x) }"""
    model = load(onnx.shape_inference.infer_shapes(parse(text)))
    probe, taps = tap_summaries(model, ["x", "y"], sample=True)
    feed = {"x": np.zeros((4, 3, 256, 256), np.float32)}
    outputs = Session(probe).run(feed)
    assert len(taps) == 2
    assert sum(array.size for array in outputs.values()) < 2 * 4 * 1024
