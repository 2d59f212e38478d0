"""A quantized file holds no more than it must, and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models import data as fashion
from onnxlite.graph import const_array
from onnxlite.model import load, to_bytes
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from tests.odd_models import parse

MOBILENET = Path(__file__).parents[3] / "models" / "fashion" / "mobilenet.onnx"
NET = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[n,4,8,8] x) => (float[n,5] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float[5,4] m, float[5] d>
    { [first] t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) [second] s = Conv(r, v, c)
      e = com.microsoft.QuickGelu<alpha=1.0>(s)
      p = GlobalAveragePool(e) f = Flatten(p) [last] y = Gemm<transB=1>(f, m, d) }"""


def quantized(target: str = "cpu", form: str = "qdq") -> onnx.ModelProto:
    data = np.random.default_rng(0).standard_normal((8, 4, 8, 8)).astype(np.float32)
    return quantize_static(parse(NET), data, target=target, form=form, rounding="nearest").model


def test_types_that_inference_finds_are_left_out_and_others_stay() -> None:
    proto = quantized()
    inferred = onnx.shape_inference.infer_shapes(proto)
    written = {info.name: info for info in proto.graph.value_info}
    for name in written:
        without = onnx.ModelProto()
        without.CopyFrom(proto)
        del without.graph.value_info[:]
        found = {v.name: v for v in onnx.shape_inference.infer_shapes(without).graph.value_info}
        assert name not in found or found[name] != written[name]
    # Nothing was lost: a custom operator's output keeps the type that was known.
    produced = {name for node in proto.graph.node for name in node.output}
    known = {v.name for v in (*inferred.graph.value_info, *inferred.graph.output)}
    assert produced <= known


def test_no_constant_has_its_type_twice() -> None:
    proto = quantized()
    tensors = {tensor.name for tensor in proto.graph.initializer}
    assert not tensors & {info.name for info in proto.graph.value_info}


def test_zero_points_of_convolutions_are_implied_where_the_runtime_takes_it() -> None:
    layers = {node.name: node for node in load(quantized()).graph if node.name}
    for name in ("first", "second"):
        assert [len(v.producer().inputs) for v in layers[name].inputs] == [3, 2, 2]
    # Without them ONNX Runtime would not fuse QGemm.
    assert [len(v.producer().inputs) for v in layers["last"].inputs] == [3, 3, 3]
    for target in ("tensorrt", "qnn", "generic"):
        layers = {node.name: node for node in load(quantized(target)).graph if node.name}
        weight = layers["first"].inputs[1].producer()
        assert not const_array(weight.inputs[2]).any()


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_names_of_the_float_model_stay(form: str) -> None:
    proto = quantized(form=form)
    names = {node.name for node in proto.graph.node}
    assert {"first", "second", "last"} <= names
    assert not any("_dq" in name or "_q" in name for name in names)
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize(("form", "limit"), [("qdq", 0.355), ("qoperator", 0.325)])
def test_small_model_is_small(form: str, limit: float) -> None:
    model = quantize_static(
        load(MOBILENET), fashion.calibration_images(16), form=form, rounding="nearest"
    ).model
    assert len(to_bytes(model)) < limit * MOBILENET.stat().st_size
    feed = {"image": fashion.test_set()[0][:64]}
    want, got = (Session(m).run(feed)["logits"] for m in (load(MOBILENET), model))
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 27
