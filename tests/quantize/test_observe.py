"""Observers in static quantization: absorbed activations, shared scales, fixed types."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.calibrate import OBSERVERS
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
    )
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
