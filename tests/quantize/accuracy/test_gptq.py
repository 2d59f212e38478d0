"""Weights fitted before they are rounded: better on data no layer has seen, and on the grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models import data as fashion
from onnxlite import QuantizeStaticReport
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.accuracy import gptq as compensation
from onnxlite.quantize.core import targets as target_table
from onnxlite.runtime import Session
from tests.conftest import FASHION
from tests.odd_models import parse
from tests.repair.nets import HEADER, LAYERS, NET

RNG = np.random.default_rng(3)


def correlated(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Inputs whose features have something in common, as those of real layers do."""
    rng = np.random.default_rng(seed)
    own, common = (
        rng.standard_normal(shape),
        rng.standard_normal((shape[0],) + (1,) * len(shape[1:])),
    )
    return (0.4 * own + common).astype(np.float32)


def quantized(
    text: str, data: np.ndarray, **options: object
) -> tuple[ir.Model, QuantizeStaticReport]:
    result, report = quantize_static(load(parse(text)), data, **options)
    assert isinstance(result, ir.Model)
    return result, report


def noise(text: str, model: ir.Model, data: np.ndarray) -> float:
    feed = {"x": data}
    want, got = (
        Session(load(parse(text))).run(feed)["y"],
        Session(model, qdq="float").run(feed)["y"],
    )
    return float(((want - got) ** 2).sum() / (want**2).sum())


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "MatMul from the left"])
def test_no_layer_is_worse_than_with_the_nearest_integers(name):
    body, shape = LAYERS[name]
    text = (
        f"{HEADER} g (float[n,{','.join(map(str, shape[1:]))}] x) => (" + body.split("=> (", 1)[1]
    )
    seen, fresh = correlated((96, *shape[1:]), 0), correlated((64, *shape[1:]), 1)
    near, near_report = quantized(text, seen, rounding="nearest")
    if not near_report.changed:
        pytest.skip(near_report.summary)
    fitted, _ = quantized(text, seen)
    assert noise(text, fitted, fresh) < noise(text, near, fresh) * 1.05


def test_a_real_network_gets_better_and_the_report_says_by_how_much():
    net, seen, (fresh, _) = (
        FASHION / "mobilenet.onnx",
        fashion.calibration_images(256),
        fashion.test_set(),
    )
    want = Session(load(net)).run({"image": fresh})
    db = {}
    for rounding in ("nearest", "compensated"):
        reports: list[QuantizeStaticReport] = []
        model, report = quantize_static(net, seen, rounding=rounding, observer="minmax")
        reports.append(report)
        got = Session(model).run({"image": fresh})
        wrong = sum(float(((want[name] - got[name]) ** 2).sum()) for name in want)
        db[rounding] = -10 * np.log10(wrong / sum(float((y**2).sum()) for y in want.values()))
    assert db["compensated"] > db["nearest"] + 1.5
    assert all(row.error <= row.error_nearest for row in reports[0].layers)
    # Of the weights that came in, not of those that the rounding wrote.
    assert all(20 < row.weight_sqnr_db < 60 for row in reports[0].layers)


def weights_of(model: ir.Model) -> list[np.ndarray]:
    arrays = [
        const_array(node.inputs[0]) for node in model.graph if node.op_type == "DequantizeLinear"
    ]
    return [array for array in arrays if array is not None and array.dtype == np.int8]


def test_pairs_stay_bounded_where_kernels_saturate(monkeypatch):
    row = dataclasses.replace(target_table.TARGETS["cpu-avx2"])
    assert row.avoid_saturation
    data = correlated((64, 3, 8, 8), 0)
    model, report = quantized(NET, data, target="cpu-avx2")
    assert any(layer.error is not None for layer in report.layers)
    for weight in weights_of(model):
        if weight.ndim != 4:
            continue
        # The kernel adds products in the order kernel position, input channel.
        flat = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0]).astype(int)
        a, b = flat[0 : len(flat) // 2 * 2 : 2], flat[1 : len(flat) // 2 * 2 : 2]
        assert np.abs(a + b)[a * b > 0].max(initial=0) <= 128


def test_the_nearest_integers_are_kept_where_fitting_makes_it_worse(monkeypatch):
    data = correlated((64, 3, 8, 8), 0)
    near, _ = quantized(NET, data, rounding="nearest")

    def spoiled(reference, candidate, samples, grids, options, *, progress):
        found = original(reference, candidate, samples, grids, options, progress=progress)
        for node in candidate.graph:
            for value in node.inputs:
                tensor = value.const_value if value is not None else None
                if tensor is not None and len(tensor.shape) == 4:
                    value.const_value = ir.tensor(
                        np.zeros(tensor.shape, np.float32), name=value.name
                    )
        return found

    original = compensation.round_layers
    monkeypatch.setattr(compensation, "round_layers", spoiled)
    model, report = quantized(NET, data)
    reasons = [d.message for d in report.skipped if d.what == "compensate"]
    assert len(reasons) == 1
    assert "held out" in reasons[0]
    for kept, nearest in zip(weights_of(model), weights_of(near), strict=True):
        assert np.array_equal(kept, nearest)
    assert all(layer.error is None for layer in report.layers)


def test_one_sample_is_enough_to_run():
    data = correlated((1, 3, 8, 8), 0)
    _, report = quantized(NET, data)
    assert report.changed


@pytest.mark.parametrize("rounding", ["compensated", "nearest"])
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-40, 1e-36])
def test_channels_whose_weights_are_next_to_nothing_keep_their_bias(rounding, size):
    """Inputs reach far beyond the biases, so that a bias in whole steps of an input is lost."""
    text = f"""{HEADER} g (float[n,4,6,6] x) => (float[n,3,6,6] y)
        <float[8,4,1,1] w, float[8] b, float[3,8,1,1] v, float[3] c>
        {{ t = Conv(x, w, b) r = Relu(t) y = Conv(r, v, c) }}"""
    model = load(parse(text))
    weight, bias = (model.graph.initializers[name] for name in "wb")
    array = const_array(weight).copy()
    array[:4] = np.float32(size)
    weight.const_value = ir.tensor(array, name="w")
    bias.const_value = ir.tensor(np.linspace(0, 0.07, 8, dtype=np.float32), name="b")
    array[4:] *= 1e-3
    weight.const_value = ir.tensor(array, name="w")
    data = 100 * correlated((64, 4, 6, 6), 0)
    small = quantize_static(model, data, rounding=rounding, placement="everything").model
    want, got = (Session(m).run({"x": data[:8]})["y"] for m in (model, small))
    assert ((want - got) ** 2).sum() < 1e-3 * (want**2).sum()
    assert np.isfinite(got).all()
