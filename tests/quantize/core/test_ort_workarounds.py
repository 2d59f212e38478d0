"""Float layers between integers: ONNX Runtime must not quantize them by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.graph import const_array, is_op
from onnxlite.model import clone, load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.ort_workarounds import guard_float_layers
from onnxlite.runtime import Session
from tests.odd_models import parse

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
#: A layer between Q and DQ nodes of one scale each; its weight is spread over three decades.
LAYERS = {
    "Conv": (
        "float[n,4,6,6] x) => (float[n,4,6,6] y) <float[4,1,3,3] w, float[4] b, %s>",
        "t = Conv<pads=[1,1,1,1], group=4>(d, w, b)",
        (4, 6, 6),
    ),
    "Conv and Relu": (
        "float[n,4,6,6] x) => (float[n,6,6,6] y) <float[6,4,1,1] w, float[6] b, %s>",
        "m = Conv(d, w, b) t = Relu(m)",
        (4, 6, 6),
    ),
    "ConvTranspose": (
        "float[n,4,6,6] x) => (float[n,3,7,7] y) <float[4,3,2,2] w, float[3] b, %s>",
        "t = ConvTranspose(d, w, b)",
        (4, 6, 6),
    ),
    "Gemm": (
        "float[n,6] x) => (float[n,5] y) <float[6,5] w, float[5] b, %s>",
        "t = Gemm(d, w, b)",
        (6,),
    ),
    "Gemm, weight transposed": (
        "float[n,6] x) => (float[n,5] y) <float[5,6] w, float[5] b, %s>",
        "t = Gemm<transB=1>(d, w, b)",
        (6,),
    ),
}
SCALES = "float s = {0.02}, uint8 z = {128}, float u = {0.05}, uint8 o = {128}"


def between_integers(name: str) -> tuple[ir.Model, np.ndarray]:
    """The model, and data for it."""
    head, body, shape = LAYERS[name]
    model = load(
        parse(
            f"{HEADER} g ({head % SCALES} {{ q = QuantizeLinear(x, s, z) "
            f"d = DequantizeLinear(q, s, z) {body} r = QuantizeLinear(t, u, o) "
            "y = DequantizeLinear(r, u, o) }"
        )
    )
    weight = model.graph.initializers["w"]
    array = const_array(weight)
    spread = np.geomspace(1, 1e-3, len(array)).reshape(-1, *[1] * (array.ndim - 1))
    weight.const_value = ir.tensor((array * spread).astype(np.float32), name="w")
    data = np.random.default_rng(1).standard_normal((8, *shape)).astype(np.float32)
    return model, data


def error(model: ir.Model, data: np.ndarray) -> float:
    """Largest difference between what ONNX Runtime makes of a model and what it says."""
    as_written = Session(model, optimization="none").run({"x": data})["y"]
    return float(np.abs(Session(model).run({"x": data})["y"] - as_written).max())


@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_left_alone(name: str) -> None:
    model, data = between_integers(name)
    plain = clone(model)
    assert guard_float_layers(model) == 1
    assert error(model, data) == pytest.approx(0, abs=1e-6)
    # The same numbers as before, by what the nodes say.
    before, after = (Session(m, optimization="none").run({"x": data})["y"] for m in (plain, model))
    np.testing.assert_array_equal(before, after)
    assert guard_float_layers(model) == 0


def test_onnx_runtime_does_quantize_what_is_not_shielded() -> None:
    """Where this fails, ONNX Runtime has changed and the shield may go."""
    model, data = between_integers("Conv and Relu")
    assert error(model, data) >= 0.049


def test_layers_of_one_value_share_their_node_and_other_readers_keep_theirs() -> None:
    model = load(
        parse(f"""{HEADER} g (float[n,4,6,6] x) => (float[n,4,6,6] y, float[n,4,6,6] e)
        <float[4,4,1,1] w, float[4,4,1,1] v, {SCALES}>
        {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
           a = Conv(d, w) b = Conv(d, v) e = Sigmoid(d)
           k = QuantizeLinear(a, u, o) l = QuantizeLinear(b, u, o)
           f = DequantizeLinear(k, u, o) g = DequantizeLinear(l, u, o) y = Add(f, g) }}""")
    )
    assert guard_float_layers(model) == 2
    layers = [node for node in model.graph if is_op(node, "Conv")]
    assert layers[0].inputs[0] is layers[1].inputs[0]
    sigmoid = next(node for node in model.graph if is_op(node, "Sigmoid"))
    assert sigmoid.inputs[0].name == "d"


def test_what_is_not_between_integers_stays() -> None:
    model, _ = between_integers("Gemm")
    gemm = next(node for node in model.graph if is_op(node, "Gemm"))
    model.graph.outputs[0] = gemm.outputs[0]
    assert guard_float_layers(model) == 0


def test_an_excluded_layer_runs_in_float(tmp_path: Path) -> None:
    text = f"""{HEADER} g (float[n,4,8,8] x) => (float[n,4,8,8] y)
        <float[4,4,3,3] w, float[4] b, float[4,1,3,3] v, float[4] c, float[4,4,1,1] m>
        {{ t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
           k = Conv<pads=[1,1,1,1], group=4>(r, v, c) l = Relu(k) y = Conv(l, m) }}"""
    data = np.random.default_rng(0).standard_normal((12, 4, 8, 8)).astype(np.float32)
    proto = parse(text)
    name = proto.graph.node[2].name = "depthwise"
    model = load(quantize_static(proto, data, exclude=[name]).model)
    path = tmp_path / "ran.onnx"
    Session(model, threads=1, optimized_path=path)
    ran = Counter(node.op_type for node in load(path).graph)
    assert ran["QLinearConv"] == 2
    assert ran["Conv"] + ran["FusedConv"] == 1
