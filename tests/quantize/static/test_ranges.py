"""Observers in static quantization: absorbed activations, shared scales, fixed types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.calibrate import OBSERVERS
from onnxlite.calibrate.taps import tap_summaries
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.static import step
from onnxlite.quantize.static.range_trial import RangeTrial, TrialFigures
from onnxlite.records import HoldOut
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


@pytest.mark.parametrize(("after", "best"), [((31, 30), "mse"), ((31, 28), "minmax")])
def test_auto_takes_narrower_ranges_that_hold_at_the_outputs(
    monkeypatch: pytest.MonkeyPatch, after: tuple[float, float], best: str
) -> None:
    measured = TrialFigures(30, 30), TrialFigures(*after)
    monkeypatch.setattr(RangeTrial, "compare", lambda *_: measured)
    options = {"rounding": "nearest", "placement": "everything", "equalize": False}
    auto, report = quantize_static(parse(POINTWISE), tailed(), observer="auto", **options)
    other, plain = quantize_static(parse(POINTWISE), tailed(), observer=best, **options)
    whole, chosen = (
        float(const_array(quantizers(load(model))["x"].inputs[1])) for model in (other, auto)
    )
    assert chosen == whole
    assert report.cut_ranges == plain.cut_ranges
    assert bool(report.cut_ranges) == (best == "mse")
    assert any(row.what == "observer" for row in report.skipped) == (best == "minmax")


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


def test_auto_keeps_what_rare_bursts_need() -> None:
    """Ordinary samples gain by cut ranges; samples with bursts, which are few, lose more."""
    rng = np.random.default_rng(0)
    data = rng.laplace(size=(400, 4, 8, 8)).astype(np.float32)
    data[7::50] *= 2
    options = {"rounding": "nearest", "placement": "everything", "equalize": False}
    auto, report = quantize_static(parse(POINTWISE), data, observer="auto", **options)
    plain = quantize_static(parse(POINTWISE), data, observer="minmax", **options).model
    assert auto.SerializeToString() == plain.SerializeToString()
    said = [row for row in report.skipped if row.what == "observer"]
    assert [row.code for row in said] == ["no-gain"]
    assert "samples that exceed the narrower ones" in said[0].message
    assert not report.cut_ranges


def test_cut_ranges_are_in_the_report() -> None:
    options = {"rounding": "nearest", "placement": "everything"}
    report = quantize_static(parse(POINTWISE), tailed(), observer="mse", **options).report
    cut = next(cut for cut in report.cut_ranges if cut.name == "x")
    data = tailed()
    beyond = ((data < cut.low) | (data > cut.high)).any(axis=(1, 2, 3))
    assert (cut.seen_low, cut.seen_high) == (data.min(), data.max())
    assert (cut.beyond, cut.samples) == (beyond.sum(), 400)
    assert beyond[cut.farthest]
    assert "  range cut: x from [" in str(report)
    assert [name for name, _ in report.row_tables()][-1] == "Cut ranges of quantize-static"


def with_outlier() -> np.ndarray:
    data = np.random.default_rng(0).standard_normal((256, 4, 8, 8)).astype(np.float32)
    data[77, 1, 2, 3] = 1e4
    return data


@pytest.mark.parametrize("rounding", ["nearest", "compensated"])
def test_auto_leaves_an_outlier_out_that_takes_all_steps(rounding: str) -> None:
    """One number of 1e4 in 256 images leaves 0 dB to all others, unless it is cut off."""
    options = {"rounding": rounding, "placement": "everything"}
    auto, report = quantize_static(parse(CLIP), with_outlier(), observer="auto", **options)
    ordinary = {"x": np.random.default_rng(1).standard_normal((32, 4, 8, 8)).astype(np.float32)}
    assert worst_sqnr_db(load(parse(CLIP)), load(auto), [ordinary]) > 25
    said = [row for row in report.skipped if row.code == "outlier-samples"]
    assert said[0].node == "x"
    assert "sample 77 of 256" in said[0].message
    assert "is left out" in said[0].message
    cut = next(cut for cut in report.cut_ranges if cut.name == "x")
    assert (cut.farthest, cut.seen_high) == (77, 1e4)
    # Samples held out may exceed it by a little.
    assert 1 <= cut.beyond < 8
    assert cut.high < 6


@pytest.mark.parametrize("observer", OBSERVERS)
def test_other_observers_name_the_outlier_and_say_what_to_do(observer: str) -> None:
    options = {"rounding": "nearest", "placement": "everything", "min_sqnr_db": 0}
    report = quantize_static(parse(CLIP), with_outlier(), observer=observer, **options).report
    said = [row for row in report.skipped if row.code == "outlier-samples"]
    assert said[0].node == "x"
    assert "drop such samples" in said[0].message


@pytest.mark.parametrize("count", [8, 31])
def test_few_samples_are_shared_by_fit_and_check(count: int) -> None:
    report = quantize_static(parse(CLIP), images(count), rounding="nearest").report
    assert report.hold_out.shared
    assert "1 feed that the fit used as well" in report.summary


def test_the_figure_is_from_samples_that_nothing_was_fitted_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted: list[np.ndarray] = []
    former = step.round_with_gptq

    def spy(plan, reference, samples, **options):
        fitted.extend(feed["x"] for feed in samples)
        return former(plan, reference, samples, **options)

    monkeypatch.setattr(step, "round_with_gptq", spy)
    data = np.random.default_rng(0).standard_normal((128, 4, 8, 8)).astype(np.float32)
    report = quantize_static(parse(CLIP), data, placement="everything").report
    assert report.hold_out == HoldOut(rule=report.hold_out.rule, feeds=8, unit="sample")
    assert "dB on 8 samples held out" in report.summary
    rows = np.concatenate(fitted)
    assert len(rows) == 120
    kept = {row.tobytes() for row in rows}
    assert sum(sample.tobytes() not in kept for sample in data) == 8


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
