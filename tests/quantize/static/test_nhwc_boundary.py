"""Images that float layers hand to integers, channels last: the same numbers, fewer Transposes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.static import nhwc_boundary as borders
from onnxlite.records import StepReport
from onnxlite.runtime import Session
from tests.odd_models import parse

#: A float stem and two residual blocks; the first skip comes from the stem.
RESIDUAL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,12,12] x) => (float[n,16,12,12] y)
    <float[16,3,3,3] k, float[16] a, float[16,16,3,3] w, float[16] b, float[16,16,3,3] v,
     float[16] c, float[16,16,3,3] u, float[16] d>
    { t = Conv<pads=[1,1,1,1]>(x, k, a) s = Relu(t)
      p = Conv<pads=[1,1,1,1]>(s, w, b) q = Add(p, s) r = Relu(q)
      f = Conv<pads=[1,1,1,1]>(r, v, c) h = Add(f, r) i = Relu(h)
      y = Conv<pads=[1,1,1,1]>(i, u, d) }"""


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)


def named(text: str) -> onnx.ModelProto:
    """The model with a name for its first convolution."""
    model = parse(text)
    next(node for node in model.graph.node if node.op_type == "Conv").name = "stem"
    return model


def quantized(text: str = RESIDUAL, **options: Any) -> tuple[ir.Model, StepReport]:
    chosen = {"exclude": ["stem"], "placement": "everything", "rounding": "nearest"}
    model, report = quantize_static(load(named(text)), images(16), **chosen | options)
    return model, report


def transposes(model: ir.Model, folder: Path) -> int:
    path = folder / "optimized.onnx"
    Session(model, threads=1, optimized_path=path)
    return sum(node.op_type == "Transpose" for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_same_numbers_with_fewer_transposes(monkeypatch, tmp_path, form, batch):
    new, report = quantized(form=form)
    assert report.changes["borders-channels-last"] == 1
    monkeypatch.setattr(borders, "_LEAST_SPARED", 99)
    old, report = quantized(form=form)
    assert report.changes["borders-channels-last"] == 0
    (row,) = [row for row in report.skipped if row.what == "borders-channels-last"]
    assert "'s'" in row.node
    assert "Transposes" in row.message
    assert transposes(new, tmp_path) <= transposes(old, tmp_path) - 2
    feed = {"x": images(batch, 1)}
    want, got = (Session(model, threads=1).run(feed)["y"] for model in (old, new))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (RESIDUAL, {"exclude": []}),
        (RESIDUAL, {"target": "openvino"}),
        (RESIDUAL, {"target": "generic"}),
        (RESIDUAL.replace("q = Add(p, s) r = Relu(q)", "r = Relu(p)"), {}),
    ],
    ids=["no-float-layer", "openvino", "generic", "no-skip"],
)
def test_nothing_is_rewritten_elsewhere(text, options):
    model, report = quantized(text, **options)
    assert report.changes["borders-channels-last"] == 0
    assert not any(node.op_type == "Reshape" for node in model.graph)
