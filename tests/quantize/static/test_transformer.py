"""A whole transformer block through static, dynamic and chosen quantization, with a mask."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite import QuantizeStaticReport, quantize_auto, quantize_dynamic
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.samples import Samples
from tests.odd_models import parse

#: One head of attention with an additive mask of the lowest float32, as exporters write it.
BLOCK = """<ir_version: 8, opset_import: ["": 20]>
    g (float[n,12,64] x, float[n,1,12] keep) => (float[n,12,64] y)
    <float one = {1}, float lowest = {-3.4028234663852886e38}, float root = {8},
     float[64] g1, float[64] b1, float[64] g2, float[64] b2,
     float[64,64] wq, float[64,64] wk, float[64,64] wv, float[64,64] wo,
     float[64,256] w1, float[256] c1, float[256,64] w2, float[64] c2>
    { drop = Sub(one, keep)  mask = Mul(drop, lowest)
      t = LayerNormalization(x, g1, b1)
      q = MatMul(t, wq)  k = MatMul(t, wk)  v = MatMul(t, wv)
      kt = Transpose<perm=[0,2,1]>(k)  qk = MatMul(q, kt)  s = Div(qk, root)
      m = Add(s, mask)  p = Softmax(m)  a = MatMul(p, v)  o = MatMul(a, wo)  r = Add(x, o)
      u = LayerNormalization(r, g2, b2)  h = MatMul(u, w1)  hb = Add(h, c1)  e = Gelu(hb)
      f = MatMul(e, w2)  fb = Add(f, c2)  y = Add(r, fb) }"""


def block() -> ir.Model:
    """The block with weights of a usual size."""
    model = load(parse(BLOCK))
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.ndim == 2:
            value.const_value = ir.tensor((array / 8).astype(np.float32), name=value.name)
    return model


def inputs(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = (np.arange(12) < rng.integers(4, 13, (n, 1, 1))).astype(np.float32)
    return {"x": rng.standard_normal((n, 12, 64)).astype(np.float32), "keep": keep}


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_products_of_weights_are_integers_and_the_rest_says_why_not(way: str) -> None:
    model, reports = block(), list[QuantizeStaticReport]()
    if way == "static":
        result, report = quantize_static(
            model,
            inputs(32, 0),
            rounding="nearest",
            placement="everything",
        )
        reports.append(report)  # fmt: skip
    else:
        result, report = quantize_dynamic(model, samples=inputs(32, 0), kernel="integer")
        reports.append(report)
    assert reports[0].changes.layers_quantized == 6
    operators = Counter(node.op_type for node in result.graph)
    assert operators["LayerNormalization"] == 2
    assert operators["Gelu"] == operators["Softmax"] == 1
    reasons = [d.message for d in reports[0].skipped]
    assert sum("computed at run time" in reason for reason in reasons) == 2
    feeds = Samples(inputs(32, 1), input_specs(model))
    assert worst_sqnr_db(model, result, feeds) > 25


def test_the_mask_is_never_given_a_scale() -> None:
    """A range of 3e38 would leave the scores of what is kept a single step."""
    result = quantize_static(
        block(), inputs(32, 0), rounding="nearest", placement="everything"
    ).model
    scales = [
        float(value.const_value.numpy().max())
        for node in result.graph
        if node.op_type == "QuantizeLinear" and (value := node.inputs[1]) is not None
    ]
    assert scales
    assert max(scales) < 1


def test_auto_takes_one_of_both_and_keeps_the_floor() -> None:
    model, reports = block(), list[QuantizeStaticReport]()
    result, report = quantize_auto(model, inputs(40, 0), rounding="nearest", min_sqnr_db=22)
    reports.append(report)
    feeds = Samples(inputs(32, 1), input_specs(model))
    found = worst_sqnr_db(model, result, feeds)
    assert found > 20
    assert {row.name for row in reports[0].layers[:2]} <= {"dynamic", "static"}


def test_vision_transformer_keeps_its_accuracy() -> None:
    from models import data

    path = Path(data.__file__).parent / "fashion" / "vit.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: train it with `python -m models.train`")
    model = load(path)
    result = quantize_dynamic(model, samples=data.calibration_images(64), kernel="integer").model
    images, _ = data.test_set()
    feeds = Samples(images[:500], input_specs(model))
    assert worst_sqnr_db(model, result, feeds) > 36
