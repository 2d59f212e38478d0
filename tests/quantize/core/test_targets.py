"""Every target's row: the types and zero points that its runtime asks for, and its accuracy."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from models import data as fashion
from onnxlite import QuantizeStaticReport
from onnxlite import machine as machines
from onnxlite.errors import OptionError
from onnxlite.graph import const_array
from onnxlite.machine import Machine, machine
from onnxlite.model import load, to_bytes
from onnxlite.quantize import TARGETS, quantize_static
from onnxlite.quantize.core import targets as rows
from onnxlite.quantize.core.targets import target_named
from onnxlite.runtime import Session
from tests.odd_models import parse

RESIDUAL = Path(__file__).parents[3] / "models" / "fashion" / "residual.onnx"
SYMMETRIC = {"tensorrt"}

#: One of everything that a row decides on: absorbed activations, values of both signs, an
#: addition, a product, a sigmoid, a bias, and a last layer.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,5] y)
    <float[8,4,3,3] w, float[8] b, float[8,8,1,1] v, float[8] c, float[8,8,1,1] u, float[8] d,
     float[8,5] m, float[5] e>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) s = Conv(r, v, c) a = Add(s, r)
      z = Conv(a, u, d) i = Sigmoid(z) k = Mul(z, i) o = Conv(k, v, c)
      p = GlobalAveragePool(o) f = Flatten(p) y = Gemm(f, m, e) }"""


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)


@cache
def quantized(name: str) -> tuple[ir.Model, QuantizeStaticReport]:
    proto = parse(NET)
    result, report = quantize_static(proto, images(16), target=name, rounding="nearest")
    onnx.checker.check_model(result, full_check=True)
    return load(result), report


def activations(model: ir.Model) -> list[tuple[ir.Node, np.ndarray]]:
    """Every QuantizeLinear node with its zero point."""
    pairs = [(n, const_array(n.inputs[2])) for n in model.graph if n.op_type == "QuantizeLinear"]
    return [(node, zero) for node, zero in pairs if zero is not None]


def weights(model: ir.Model) -> list[tuple[ir.Node, ir.Node]]:
    """Every layer with the DequantizeLinear of its weight."""
    layers = [n for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    return [(n, n.inputs[1].producer()) for n in layers]


def sqnr_db(want: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()))


def test_the_rows_are_those_of_the_documentation() -> None:
    assert set(TARGETS) == {
        "cpu", "cpu-avx2", "cpu-arm", "openvino", "tensorrt", "qnn", "generic",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_types_are_those_of_the_row(name: str) -> None:
    model, _ = quantized(name)
    row = TARGETS[name]
    dtype = np.int8 if name in {"cpu-arm", "tensorrt"} else np.uint8
    assert {zero.dtype for _, zero in activations(model)} == {np.dtype(dtype)}
    for node, dq in weights(model):
        assert dq.op_type == "DequantizeLinear"
        assert const_array(dq.inputs[0]).dtype == np.int8
        assert len(dq.inputs) == 2 or not const_array(dq.inputs[2]).any()
        one_scale = name == "qnn" and node.op_type == "Gemm"
        assert const_array(dq.inputs[1]).ndim == (0 if one_scale else 1)
        bias = node.inputs[2]
        if row.quantize_bias:
            stored = bias.producer()
            data = node.inputs[0].producer()
            assert const_array(stored.inputs[0]).dtype == np.int32
            assert np.allclose(
                const_array(stored.inputs[1]),
                const_array(data.inputs[1]) * const_array(dq.inputs[1]),
                rtol=1e-6,
            )
        else:
            assert const_array(bias).dtype == np.float32


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_accuracy_is_close_to_the_default_rows(name: str) -> None:
    data = images(32, seed=1)
    want = Session(load(parse(NET))).run({"x": data})["y"]

    def accuracy(target: str) -> float:
        return sqnr_db(want, Session(quantized(target)[0]).run({"x": data})["y"])

    assert accuracy(name) > 28
    # Without a zero point a range of one sign has half of the integers: 6 dB.
    assert accuracy(name) > accuracy("cpu") - (6 if name in SYMMETRIC else 2)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_residual_net_keeps_its_decisions(name: str) -> None:
    data, _ = fashion.test_set()
    data = data[:300]
    model = quantize_static(
        load(RESIDUAL), fashion.calibration_images(48), target=name, rounding="nearest"
    ).model
    want = Session(load(RESIDUAL)).run({"image": data})["logits"]
    got = Session(model).run({"image": data})["logits"]
    assert sqnr_db(want, got) > 31
    assert (want.argmax(1) == got.argmax(1)).mean() > 0.98
    assert len(to_bytes(model)) < 0.4 * RESIDUAL.stat().st_size


def test_symmetric_zero_points_are_zero_and_relu_stays() -> None:
    model, report = quantized("tensorrt")
    assert not any(zero.any() for _, zero in activations(model))
    relu = next(node for node in model.graph if node.op_type == "Relu")
    # Nothing between the convolution and the Relu that TensorRT fuses into it.
    assert relu.inputs[0].producer().op_type == "Conv"
    assert [use.node.op_type for use in relu.outputs[0].uses()] == ["QuantizeLinear"]
    assert report.changes.activations_absorbed == 0


def test_refused_operators_stay_float() -> None:
    model, _ = quantized("tensorrt")
    sigmoid = next(node for node in model.graph if node.op_type == "Sigmoid")
    assert sigmoid.inputs[0].producer().op_type == "Conv"
    assert sigmoid.outputs[0].uses()[0].node.op_type == "Mul"
    chosen, _ = quantized("cpu")
    sigmoid = next(node for node in chosen.graph if node.op_type == "Sigmoid")
    assert sigmoid.inputs[0].producer().op_type == "DequantizeLinear"


def test_int8_on_arm_is_symmetric_but_uses_the_type_in_full_for_one_sign() -> None:
    model, report = quantized("cpu-arm")
    zeros = {node.inputs[0].name: int(zero) for node, zero in activations(model)}
    assert zeros["x"] == 0
    assert zeros["z"] == 0
    assert zeros["t"] == -128  # the Relu is absorbed
    assert zeros["i"] == -128  # a Sigmoid
    assert report.changes.activations_absorbed == 1
    assert not any(node.op_type == "Relu" for node in model.graph)


def test_int8_activations_run_on_integer_kernels(tmp_path: Path) -> None:
    path = tmp_path / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    # The default on ARM; on x86 ONNX Runtime turns some int8 activations into uint8 ones.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(to_bytes(quantized("cpu-arm")[0]), options)
    ran = [node.op_type for node in onnx.load(path).graph.node]
    assert ran.count("QLinearConv") == 4
    assert "Conv" not in ran
    assert "FusedConv" not in ran


def test_qnn_has_integers_up_to_the_outputs() -> None:
    model, _ = quantized("qnn")
    assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"
    model, _ = quantized("cpu")
    assert model.graph.outputs[0].producer().op_type == "Gemm"


def test_qnn_has_no_range_below_its_smallest() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w, float[4] b>
        { y = Gemm(x, w, b) }""")
    data = np.full((4, 4), 1e-7, np.float32)
    model = load(quantize_static(proto, data, target="qnn", rounding="nearest").model)
    scale = next(n for n in model.graph if n.op_type == "QuantizeLinear").inputs[1]
    assert const_array(scale) == pytest.approx(1e-4 / 255, rel=1e-3)


@pytest.mark.parametrize(
    ("system", "instructions", "row"),
    [
        ("Linux x86_64", ("avx2", "avx512_vnni"), "cpu"),
        ("Linux x86_64", ("avx2",), "cpu-avx2"),
        ("Linux aarch64", ("asimd",), "cpu-arm"),
        ("Darwin arm64", (), "cpu-arm"),
    ],
)
def test_cpu_means_this_machine(
    system: str, instructions: tuple[str, ...], row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    other = Machine(
        cpu=here.cpu,
        cores=here.cores,
        instructions=instructions,
        system=system,
        python=here.python,
        onnxruntime=here.onnxruntime,
    )
    monkeypatch.setattr(rows, "machine", lambda: other)
    assert target_named("cpu").name == row
    assert machines.machine() == here
    assert target_named("openvino").name == "openvino"


def test_unknown_target_lists_the_names() -> None:
    with pytest.raises(OptionError, match="choose one of cpu, cpu-avx2, cpu-arm, openvino"):
        target_named("abacus")
