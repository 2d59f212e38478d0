"""QOperator form: the same numbers as the QDQ form, in a smaller file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import data as fashion
from onnxlite.errors import OptionError
from onnxlite.graph import const_array
from onnxlite.model import load, to_bytes
from onnxlite.quantize import quantize_static
from onnxlite.recipe import QuantizeStatic
from onnxlite.runtime import Session
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[n,4,8,8] x) => (float[n,_] y)'

#: One net per operator between two convolutions: body, and the integer operator it becomes.
#: `a` is what the first convolution computes, `b` what the second one reads.
BETWEEN = {
    "Add": ("o = Conv(a, v, c) b = Add(a, o)", "QLinearAdd"),
    "Mul": ("o = Conv(a, v, c) b = Mul(a, o)", "QLinearMul"),
    "Sigmoid": ("b = Sigmoid(a)", "QLinearSigmoid"),
    "LeakyRelu": ("b = LeakyRelu<alpha=0.2>(a)", "QLinearLeakyRelu"),
    "Softmax": ("b = Softmax<axis=1>(a)", "QLinearSoftmax"),
    "AveragePool": (
        "b = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1], count_include_pad=1>(a)",
        "QLinearAveragePool",
    ),
    "GlobalAveragePool": ("b = GlobalAveragePool(a)", "QLinearGlobalAveragePool"),
    "Concat": (
        "r = Relu(a) o = Conv(x, v, c) p = Concat<axis=2>(r, o) b = Conv(p, v, c)",
        "QLinearConcat",
    ),
    "MaxPool": ("b = MaxPool<kernel_shape=[2,2]>(a)", "MaxPool"),
    "Transpose": ("b = Transpose<perm=[0,1,3,2]>(a)", "Transpose"),
    "Reshape": ("b = Reshape(a, s)", "Reshape"),
    "Resize": ('b = Resize<mode="nearest">(a, "", f)', "Resize"),
    "Split": ("l, h = Split<axis=2>(a, q) k = Conv(l, v, c) b = Conv(h, v, c)", "Split"),
    "Slice": ("b = Slice(a, i, j, ax)", "Slice"),
    "Gather": ("b = Gather<axis=2>(a, i)", "Gather"),
}


def net(body: str) -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,4,?,?] y)
        <float[4,4,3,3] w, float[4] u, float[4,4,1,1] v, float[4] c, float[4,4,1,1] z,
         int64[4] s = {{0, 4, 4, 16}}, float[4] f = {{1, 1, 2, 2}}, int64[2] q = {{4, 4}},
         int64[1] i = {{1}}, int64[1] j = {{7}}, int64[1] ax = {{2}}>
        {{ a = Conv<pads=[1,1,1,1]>(x, w, u) {body} y = Conv(b, z) }}"""


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)


def both(text: str, data: np.ndarray, **options: object) -> tuple[ir.Model, ir.Model]:
    """The QDQ and the QOperator form of a model."""
    proto = parse(text)
    qdq = quantize_static(proto, data, rounding="nearest", **options).model
    qop = quantize_static(proto, data, rounding="nearest", form="qoperator", **options).model
    onnx.checker.check_model(qop, full_check=True)
    return load(qdq), load(qop)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def step(model: ir.Model) -> float:
    """The scale of the model's output, 0 where it is not quantized."""
    producer = model.graph.outputs[0].producer()
    return float(const_array(producer.inputs[1])) if len(producer.inputs) == 3 else 0.0


@pytest.mark.parametrize("name", sorted(BETWEEN))
def test_every_operator_has_the_integers_of_the_qdq_form(name: str) -> None:
    body, wanted = BETWEEN[name]
    qdq, qop = both(net(body), images(8))
    ran = kinds(qop)
    assert ran[wanted] == 1
    assert ran["QLinearConv"] >= 2
    assert ran["QuantizeLinear"] == ran["DequantizeLinear"] == 1  # input and output
    data = images(16, seed=1)
    want, got = (Session(model).run({"x": data})["y"] for model in (qdq, qop))
    assert np.abs(want - got).max() <= step(qop) * 1.001
    assert (want == got).mean() > 0.999


@pytest.mark.parametrize("target", ["cpu", "cpu-avx2", "cpu-arm"])
@pytest.mark.parametrize("last", ["y = Gemm<transB=1>(f, m, d)", "y = MatMul(f, n)"])
def test_last_layer_goes_from_integers_to_float(last: str, target: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,8,8] x) => (float[n,5] y)
        <float[4,4,3,3] w, float[4] u, float[5,4] m, float[5] d, float[4,5] n>
        {{ a = Conv<pads=[1,1,1,1]>(x, w, u) r = Relu(a) p = GlobalAveragePool(r)
           f = Flatten(p) {last} }}"""
    qdq, qop = both(text.replace("float[n,", "float[batch,"), images(8), target=target)
    ran = kinds(qop)
    assert ran["QGemm"] + ran["MatMulIntegerToFloat"] == 1
    assert ran["DequantizeLinear"] == ran["Relu"] == 0
    data = images(16, seed=1)
    # Int8 activations between Q and DQ nodes stay int8 on ARM; on x86 it must be asked for.
    want, got = (Session(m, qdq="int8").run({"x": data})["y"] for m in (qdq, qop))
    assert np.abs(want - got).max() <= np.abs(want).max() * 1e-6


def test_interpolation_stays_float() -> None:
    """ONNX Runtime keeps Q and DQ around it, too: its integer kernel does not round."""
    qdq, qop = both(net('b = Resize<mode="linear">(a, "", f)'), images(8))
    resize = next(node for node in qop.graph if node.op_type == "Resize")
    assert resize.inputs[0].producer().op_type == "DequantizeLinear"
    data = images(16, seed=1)
    want, got = (Session(model).run({"x": data})["y"] for model in (qdq, qop))
    assert np.abs(want - got).max() <= step(qop) * 1.001


def test_matmul_between_integers() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6,16] x) => (float[n,6,8] y) <float[16,16] w, float[16,8] v>
        { t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }"""
    data = np.random.default_rng(0).standard_normal((8, 6, 16)).astype(np.float32)
    qdq, qop = both(text, data)
    assert kinds(qop)["QLinearMatMul"] == 1
    want, got = (Session(model).run({"x": data})["y"] for model in (qdq, qop))
    assert np.abs(want - got).max() <= np.abs(want).max() * 1e-5


def test_no_float_weights_are_left_and_float_layers_keep_q_and_dq() -> None:
    text = net("e = Exp(a) b = Conv(e, v, c)")
    proto = parse(text)
    qop = load(quantize_static(proto, images(8), form="qoperator", exclude=["Conv"]).model)
    sizes = {
        name: value.const_value.size
        for name, value in qop.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
    }
    # The excluded first layer's own weight and bias, and scales.
    assert sizes.pop("w") == 144
    assert all(size <= 4 for size in sizes.values())
    assert all(value.uses() for value in qop.graph.initializers.values())


def test_residual_net_is_smaller_and_the_same(residual_path: Path) -> None:
    images = fashion.test_set()[0][:200]
    samples = fashion.calibration_images(32)
    qdq, qop = (
        quantize_static(load(residual_path), samples, rounding="nearest", form=form).model
        for form in ("qdq", "qoperator")
    )
    want, got = (Session(model).run({"image": images})["logits"] for model in (qdq, qop))
    assert np.array_equal(want, got)
    assert len(to_bytes(qop)) < 0.99 * len(to_bytes(qdq))
    assert not any(node.op_type in ("Conv", "Add", "Gemm") for node in qop.graph)


def test_other_runtimes_do_not_read_it() -> None:
    with pytest.raises(OptionError, match=r"'openvino'.*cpu, cpu-avx2, cpu-arm"):
        quantize_static(
            parse(net("b = Sigmoid(a)")), images(2), target="openvino", form="qoperator"
        )
    with pytest.raises(OptionError, match="tensorrt"):
        QuantizeStatic(target="tensorrt", form="qoperator")
