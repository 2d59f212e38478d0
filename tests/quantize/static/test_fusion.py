"""What ONNX Runtime fuses because the scales are right: no float node is left in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.ops import OPS
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from tests.odd_models import parse
from tests.quantize.checks import executed, sqnr_db

#: For every operator that only moves values: what stands between two convolutions.
MOVES = {
    "Reshape": "b = Reshape(a, square)",
    "Flatten": "f = Flatten(a) b = Reshape(f, whole)",
    "Transpose": "b = Transpose<perm=[0,1,3,2]>(a)",
    "Squeeze": "f = Unsqueeze(a, two) b = Squeeze(f, two)",
    "Unsqueeze": "f = Unsqueeze(a, two) b = Squeeze(f, two)",
    "Slice": "b = Slice(a, one, seven, two)",
    "Split": "l, b = Split<axis=2>(a, halves) m = Conv(l, v, c)",
    "Expand": "p = MaxPool<kernel_shape=[8,8]>(a) b = Expand(p, large)",
    "Tile": "b = Tile(a, twice)",
    "MaxPool": "b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)",
    "Gather": "b = Gather<axis=2>(a, one)",
    "Resize": 'b = Resize<mode="nearest">(a, "", double)',
}
#: Between two convolutions, too, but with integer kernels of their own.
COMPUTES = {
    "Add": "s = Conv(a, v, c) b = Add(a, s)",
    "Mul": "s = Conv(a, v, c) b = Mul(a, s)",
    "LeakyRelu": "b = LeakyRelu<alpha=0.1>(a)",
    "Sigmoid": "b = Sigmoid(a)",
    "Softmax": "b = Softmax<axis=1>(a)",
    "Concat": "s = Conv(a, v, c) k = Concat<axis=2>(a, s) b = Conv(k, v, c)",
    "AveragePool": "b = AveragePool<kernel_shape=[2,2]>(a)",
    "GlobalAveragePool": "b = GlobalAveragePool(a)",
}


def net(body: str, *, activation: str = "a = Relu(t)") -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,?,?] y)
        <float[4,4,3,3] w, float[4] u, float[4,4,1,1] v, float[4] c, float[4,4,1,1] z,
         int64[4] square = {{0, 4, 4, 16}}, int64[4] whole = {{0, 4, 8, 8}},
         int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] seven = {{7}},
         int64[2] halves = {{4, 4}}, int64[4] large = {{1, 1, 4, 4}},
         int64[4] twice = {{1, 1, 2, 1}}, float[4] double = {{1, 1, 2, 2}},
         float low = {{-0.5}}, float high = {{1.5}}>
        {{ t = Conv<pads=[1,1,1,1]>(x, w, u) {activation} {body} y = Conv(b, z) }}"""


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)


def quantized(text: str, **options: object) -> ir.Model:
    return load(quantize_static(parse(text), images(16), rounding="nearest", **options).model)


def test_every_operator_of_the_table_is_here() -> None:
    kinds = {
        kind: {name for name, spec in OPS.items() if spec.quant and spec.quant.kind == kind}
        for kind in ("layout", "integer")
    }
    assert set(MOVES) == kinds["layout"]
    assert set(COMPUTES) == kinds["integer"]


@pytest.mark.parametrize("name", sorted(MOVES | COMPUTES))
def test_integers_go_from_the_first_layer_to_the_last(name: str, tmp_path: Path) -> None:
    text = net((MOVES | COMPUTES)[name])
    model = quantized(text)
    ran = executed(model, tmp_path)
    assert ran["QuantizeLinear"] == 1  # of the input
    # Of the output, and of the part of a Split that nobody reads.
    assert ran["DequantizeLinear"] == (2 if name == "Split" else 1)
    assert ran["QLinearConv"] >= 2
    assert not {"Conv", "FusedConv", "Relu", "Clip"} & set(ran)
    # On the calibration samples: a product of other ones leaves the range that was seen.
    assert sqnr_db(text, model, {"x": images(16)}) > 25


@pytest.mark.parametrize("name", sorted(MOVES))
def test_what_moves_values_has_one_scale_on_both_sides(name: str) -> None:
    model = quantized(net(MOVES[name]))
    node = next(node for node in model.graph if node.op_type == name)
    before = node.inputs[0].producer()
    after = [use.node for output in node.outputs for use in output.uses()]
    assert {n.op_type for n in (before, *after)} == {"DequantizeLinear", "QuantizeLinear"}
    assert {n.inputs[1] for n in after} == {before.inputs[1]}
    assert {n.inputs[2] for n in after} == {before.inputs[2]}


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [
        ("a = Relu(t)", 0.0, None),
        ("a = Clip(t, low, high)", -0.5, 1.5),
        ('a = Clip(t, "", high)', None, 1.5),
        ("a = Clip(t, low)", -0.5, None),
    ],
)
def test_an_absorbed_activation_saturates_within_half_a_step(
    activation: str, low: float | None, high: float | None
) -> None:
    model = quantized(net("b = MaxPool<kernel_shape=[2,2]>(a)", activation=activation))
    assert not any(node.op_type in ("Relu", "Clip") for node in model.graph)
    conv = next(node for node in model.graph if node.op_type == "Conv")
    quantize = conv.outputs[0].uses()[0].node
    scale, zero = float(const_array(quantize.inputs[1])), int(const_array(quantize.inputs[2]))
    if low is not None:
        assert (0 - zero) * scale == pytest.approx(low, abs=scale / 2)
    if high is not None:
        assert (255 - zero) * scale == pytest.approx(high, abs=scale / 2)
    if low == 0:
        assert zero == 0  # nothing negative can be represented


def test_an_activation_whose_input_is_read_elsewhere_stays() -> None:
    text = net("s = Conv(t, v, c) b = Add(a, s)")
    model = quantized(text)
    assert [node.op_type for node in model.graph].count("Relu") == 1
    assert sqnr_db(text, model, {"x": images(16, seed=1)}) > 25


def test_a_chain_of_moves_shares_one_scale_up_to_a_concat() -> None:
    text = net(
        "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) q = Transpose<perm=[0,1,3,2]>(p)"
        " s = Conv(q, v, c) r = Relu(s) k = Concat<axis=2>(q, r) b = Conv(k, v, c)"
    )
    model = quantized(text)
    concat = next(node for node in model.graph if node.op_type == "Concat")
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    scale = concat.outputs[0].uses()[0].node.inputs[1]
    assert {value.producer().inputs[1] for value in concat.inputs[1:]} == {scale}
    assert pool.inputs[0].producer().inputs[1] is pool.outputs[0].uses()[0].node.inputs[1]
    assert sqnr_db(text, model, {"x": images(16, seed=1)}) > 25


def test_dead_channels_and_dead_layers_have_scales_that_are_safe() -> None:
    proto = parse(net("b = MaxPool<kernel_shape=[2,2]>(a)"))
    arrays = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    arrays["w"][1] = 0  # a channel whose output is its bias
    arrays["w"][2], arrays["u"][2] = 0, 0  # a channel without any output
    arrays["w"][3] = 1e-38  # a channel whose scale would not be a normal number
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    model = load(quantize_static(proto, images(16), rounding="nearest").model)
    data = images(16, seed=1)
    want = Session(load(proto)).run({"x": data})["y"]
    got = Session(model).run({"x": data})["y"]
    assert np.isfinite(got).all()
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 25
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and value.name.startswith("scale"):
            assert (array >= np.finfo(np.float32).tiny).all()
