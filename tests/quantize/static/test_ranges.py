"""Observers in static quantization: absorbed activations, shared scales, fixed types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.calibrate import OBSERVERS
from onnxlite.calibrate.taps import tap_summaries
from onnxlite.fidelity import Reference
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
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


#: One product between two values.
POINTWISE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,8,8] y)
    <float[4,4,1,1] w> { y = Conv(x, w) }"""


def tailed() -> np.ndarray:
    """So many numbers that the largest are worth clipping."""
    return np.random.default_rng(0).laplace(size=(400, 4, 8, 8)).astype(np.float32)


def test_auto_takes_the_narrower_ranges_where_they_are_closer() -> None:
    result, reports = {}, {}
    for observer in ("minmax", "auto"):
        result[observer], reports[observer] = quantize_static(
            parse(POINTWISE),
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
    rated = iter([30.0, 29.0])
    monkeypatch.setattr(Reference, "sqnr_db", lambda *_: next(rated))
    options = {"rounding": "nearest", "placement": "everything"}
    auto, report = quantize_static(parse(POINTWISE), tailed(), observer="auto", **options)
    plain = quantize_static(parse(POINTWISE), tailed(), observer="minmax", **options).model
    assert auto.SerializeToString() == plain.SerializeToString()
    assert any("29.0 dB and the whole ones 30.0 dB" in row.message for row in report.skipped)


@pytest.mark.parametrize(("decibels", "best"), [([30.0, 31.0], "mse"), ([9, 9.2], None)])
def test_auto_takes_what_holds_at_the_outputs(
    monkeypatch: pytest.MonkeyPatch, decibels: list[float], best: str | None
) -> None:
    """Narrower ranges are taken if they are clearly better on held-out samples."""
    rated = iter(decibels)
    monkeypatch.setattr(Reference, "sqnr_db", lambda *_: next(rated))
    options = {"rounding": "nearest", "placement": "everything"}
    auto = quantize_static(parse(POINTWISE), tailed(), observer="auto", **options).model
    other = quantize_static(parse(POINTWISE), tailed(), observer=best or "minmax", **options).model
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
