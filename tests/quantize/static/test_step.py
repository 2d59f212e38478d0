"""Static quantization: what runs on integers, what fuses, what is refused."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.errors import OptionError, SamplesError
from onnxlite.graph import const_array
from onnxlite.model import load, to_proto
from onnxlite.quantize import QuantizeStatic, quantize_static
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.runtime import Session
from onnxlite.step import StepContext
from tests.odd_models import parse
from tests.quantize.checks import applied, executed, sqnr_db

quantized = partial(applied, quantize_static)


def images(n: int = 12, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)


CONV = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,8,8,8] y)
    <float[8,4,3,3] w, float[8] b, float[8,8,1,1] v, float[8] c>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) %s u = Conv(r, v, c) y = Add(u, r) }"""


@pytest.mark.parametrize(
    "activation",
    [
        "r = Relu(t)",
        "lo = Constant<value_float=0.0>() hi = Constant<value_float=1.0>() r = Clip(t, lo, hi)",
    ],
)
def test_activation_is_absorbed_and_convolutions_fuse(activation: str, tmp_path: Path) -> None:
    text = CONV % activation
    model, report = quantized(text, images(12, 4, 8, 8))
    kinds = Counter(node.op_type for node in model.graph)
    assert report.changes.activations_absorbed == 1
    assert not {"Relu", "Clip"} & set(kinds)
    ran = executed(model, tmp_path)
    assert ran["QLinearConv"] == 2
    assert ran["Conv"] == ran["FusedConv"] == 0
    assert sqnr_db(text, model, {"x": images(4, 4, 8, 8)}) > 28


def test_an_ir_model_is_not_changed_by_the_step() -> None:
    model = load(parse(CONV % "r = Relu(t)"))
    before = to_proto(model).SerializeToString()
    options = QuantizeStatic(placement="everything")
    quantize_static_ir(model, images(12, 4, 8, 8), options, StepContext())
    assert to_proto(model).SerializeToString() == before


def test_weights_are_int8_per_channel_and_float_copies_are_gone() -> None:
    model, _ = quantized(CONV % "r = Relu(t)", images(4, 4, 8, 8))
    weights = [v for v in model.graph.initializers.values() if len(v.shape) == 4]
    assert [w.dtype for w in weights] == [ir.DataType.INT8] * 2
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0] in weights:
            assert const_array(node.inputs[1]).shape == (8,)
            assert node.attributes["axis"].as_int() == 0


def test_residual_addition_runs_on_integers(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4] y)
        <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float[4,4] m, float[4] d>
        { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) u = Conv(r, v, c) a = Add(u, r)
          s = Relu(a) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm(f, m, d) }"""
    model, _ = quantized(text, images(12, 4, 8, 8))
    ran = executed(model, tmp_path)
    assert ran["QLinearAdd"] == 1
    assert ran["QLinearGlobalAveragePool"] == 1
    assert ran["QGemm"] == 1
    assert ran["Add"] == ran["Relu"] == 0
    # The last layer goes from integers to float, so the logits are not rounded.
    assert model.graph.outputs[0].producer().op_type == "Gemm"
    assert sqnr_db(text, model, {"x": images(4, 4, 8, 8)}) > 28


@pytest.mark.parametrize(("reader", "sums"), [("Conv(r, v, c)", 1), ("Tanh(r)", 0)])
def test_addition_behind_a_float_layer_runs_on_integers_if_a_layer_reads_the_same(
    reader: str, sums: int, tmp_path: Path
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,8,8] y)
        <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float[4,4,1,1] k>
        {{ [first] t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) h = {reader}
           u = Conv(h, v, c) a = Add(u, r) s = Relu(a) y = Conv(s, k) }}"""
    model, _ = quantized(text, images(12, 4, 8, 8), exclude=["first"], placement="everything")
    ran = executed(model, tmp_path)
    assert ran["Conv"] + ran["FusedConv"] == 1
    assert ran["QLinearAdd"] == sums
    assert ran["Add"] == 1 - sums
    assert sqnr_db(text, model, {"x": images(4, 4, 8, 8)}) > 28


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_space_runs_on_integers(opset: int, keepdims: int, tmp_path: Path) -> None:
    axes = "(r)" if opset < 18 else "(r, axes)"
    attributes = "axes=[2,3], " if opset < 18 else ""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[n,4,8,8] x) => (float[n,4] y)
        <float[4,4,3,3] w, float[4] b, float[4,4] m, float[4] d, int64[2] axes = {{2, -1}},
         int64[2] s = {{0, -1}}>
        {{ t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
          p = ReduceMean<{attributes}keepdims={keepdims}>{axes} f = Reshape(p, s)
          y = Gemm(f, m, d) }}"""
    model, report = quantized(text, images(12, 4, 8, 8))
    assert report.changes.means_pooled == 1
    assert executed(model, tmp_path)["QLinearGlobalAveragePool"] == 1
    assert sqnr_db(text, model, {"x": images(4, 4, 8, 8)}) > 28


def test_moves_share_the_scale_of_what_they_move() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,4,4] y)
        <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c>
        { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
          p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Conv(p, v, c) }"""
    model, _ = quantized(text, images(6, 4, 8, 8))
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    before, after = pool.inputs[0].producer(), next(iter(pool.outputs[0].uses())).node
    assert before.inputs[1] is after.inputs[1]


@pytest.mark.parametrize(
    ("activation", "joined", "scales"),
    [
        ("", "t", 1),
        ("r = Relu(t)", "r", 2),
        ("s = Sigmoid(t) i = Conv(s, v, c)", "i", 1),
    ],
)
def test_concat_shares_a_scale_unless_it_would_undo_a_clip(
    activation: str, joined: str, scales: int
) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,8,8] y)
        <float[4,4,1,1] w, float[4] b, float[4,4,1,1] v, float[4] c, float[4,8,1,1] m, float[4] d>
        {{ t = Conv(x, w, b) {activation} u = Conv(x, v, c) k = Concat<axis=1>({joined}, u)
           y = Conv(k, m, d) }}"""
    model, _ = quantized(text, images(6, 4, 8, 8))
    concat = next(node for node in model.graph if node.op_type == "Concat")
    assert len({value.producer().inputs[1] for value in concat.inputs}) == scales
    assert not any(node.op_type == "Relu" for node in model.graph)


def test_bias_addition_after_matmul_stays_float(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6,16] x) => (float[n,6,16] y) <float[16,16] w, float[16] b>
        { t = MatMul(x, w) y = Add(t, b) }"""
    model, _ = quantized(text, images(12, 6, 16))
    assert executed(model, tmp_path)["MatMulIntegerToFloat"] == 1
    assert sqnr_db(text, model, {"x": images(4, 6, 16)}) > 30


def test_inner_value_that_is_also_an_output_keeps_its_name() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,8,8] y, float[n,4,8,8] r)
        <float[4,4,1,1] w, float[4] b, float[4,4,1,1] v, float[4] c>
        { t = Conv(x, w, b) r = Relu(t) y = Conv(r, v, c) }"""
    model, _ = quantized(text, images(6, 4, 8, 8))
    assert [value.name for value in model.graph.outputs] == ["y", "r"]
    assert sqnr_db(text, model, {"x": images(4, 4, 8, 8)}) > 25


def test_no_kernel_saturates() -> None:
    """With graph optimizations off, Q and DQ run in float: the result without overflow."""
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,16,6,6] x) => (float[n,8,6,6] y) <float[8,16,3,3] w, float[8] b>
        { y = Conv<pads=[1,1,1,1]>(x, w, b) }"""
    proto = parse(text)
    # All weights near the largest: every pair would overflow int16.
    large = (1 - 0.1 * rng.random((8, 16, 3, 3))).astype(np.float32)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(large, "w"))
    data = rng.random((4, 16, 6, 6), np.float32)
    model = quantize_static(load(proto), data).model
    integer = Session(model).run({"x": data})["y"]
    exact = Session(model, optimization="none").run({"x": data})["y"]
    assert np.abs(integer - exact).max() <= np.abs(exact).max() / 200


def test_dead_channel_with_a_bias_is_exact() -> None:
    proto = parse(CONV % "r = Relu(t)")
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[3], weight[4] = 0, 1e-30
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    bias = np.linspace(1, 2, 8, dtype=np.float32)
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bias, "b"))
    data = images(8, 4, 8, 8)
    model = quantize_static(load(proto), data).model
    want = Session(load(proto)).run({"x": data})["y"]
    got = Session(model).run({"x": data})["y"]
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 28


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y)
            { y = Tanh(x) }""",
            "no layer can be quantized",
        ),
        (
            """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y)
            <float s = {0.1}, uint8 z = {0}>
            { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
            "quantized already",
        ),
    ],
)
def test_nothing_to_quantize_is_said(text: str, reason: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        _, report = quantized(text, images(4, 4))
    assert not report.changed
    assert reason in report.summary
    assert reason in caplog.text


def test_a_first_layer_with_one_channel_is_quantized() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,1,8,8] x) => (float[n,4,8,8] y)
        <float[4,1,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c>
        { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) y = Conv(r, v, c) }"""
    model, report = quantized(text, images(8, 1, 8, 8))
    assert report.changes.layers_quantized == 2
    assert not report.skipped
    assert sqnr_db(text, model, {"x": images(4, 1, 8, 8)}) > 30


def test_product_of_two_activations_stays_float_and_is_reported() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,4] x) => (float[n,4,4] y) <float[4,4] w>
        { t = MatMul(x, w) y = MatMul(t, t) }"""
    _, report = quantized(text, images(8, 4, 4))
    assert report.changes.layers_quantized == 1
    assert "computed at run time" in report.skipped[0].message


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_old_opsets_are_upgraded(opset: int) -> None:
    text = f"""<ir_version: 4, opset_import: ["": {opset}]>
        g (float[n,4,8,8] x) => (float[n,8,8,8] y) <float[8,4,3,3] w, float[8] b>
        {{ t = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(t) }}"""
    model, report = quantized(text, images(6, 4, 8, 8))
    assert model.opset_imports[""] >= 13
    assert report.changes.layers_quantized == 1


def test_captured_value_in_a_branch_is_served() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,4,4] x, bool flag) => (float[n,4,4,4] y)
        <float[4,4,1,1] w, float[4] b, float[4,4,1,1] v, float[4] c>
        { t = Conv(x, w, b) r = Relu(t)
          u = If(flag) <then_branch = yes () => (float[n,4,4,4] a) { a = Exp(r) },
                        else_branch = no () => (float[n,4,4,4] e) { e = Conv(r, v, c) }>
          y = Add(u, r) }"""
    data = {"x": images(4, 4, 4, 4), "flag": np.array(True)}
    model, report = quantized(text, data)
    assert any("control-flow" in d.message for d in report.skipped)
    for flag in (True, False):
        feed = {"x": data["x"], "flag": np.array(flag)}
        assert sqnr_db(text, model, feed) > 20


def test_patterns_and_target() -> None:
    text = CONV % "r = Relu(t)"
    _, report = quantized(text, images(4, 4, 8, 8), target="cpu-avx2")
    assert report.changes.layers_quantized == 2
    name = report.layers[0].name
    _, report = quantized(text, images(4, 4, 8, 8), exclude=[name])
    assert report.changes.layers_quantized == 1
    with pytest.raises(OptionError, match="choose one of cpu"):
        quantize_static(parse(text), images(4, 4, 8, 8), target="abacus")


def test_bad_samples_are_named() -> None:
    data = images(4, 4, 8, 8)
    data[2, 0, 0, 0] = np.nan
    with pytest.raises(SamplesError, match=r"'x'.*NaN"):
        quantize_static(parse(CONV % "r = Relu(t)"), data)


def test_residual_net_keeps_its_accuracy(residual_path: Path) -> None:
    from models.data import calibration_images, test_set

    data, labels = test_set()
    model = quantize_static(load(residual_path), calibration_images(128)).model
    want = Session(load(residual_path)).run({"image": data})["logits"]
    got = Session(model).run({"image": data})["logits"]
    hits, reference = (got.argmax(1) == labels).mean(), (want.argmax(1) == labels).mean()
    assert hits >= reference - 0.005
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 33
    assert len(to_proto(model).SerializeToString()) < 0.4 * residual_path.stat().st_size
