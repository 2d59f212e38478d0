"""16-bit activations for the layers that are named, and conversions around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import QuantizeStaticReport
from onnxlite.errors import OptionError
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": %d]>
    g (float[n,4,8,8] x) => (float[n,5] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c, float[4,4,1,1] u, float[4] d,
     float[5,4] m, float[5] e>
    { [first] t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
      [pool] k = MaxPool<kernel_shape=[2,2]>(r)
      [second] s = Conv(k, v, c) q = Relu(s)
      [third] o = Conv(q, u, d) [sum] a = Add(o, q) [gate] i = Sigmoid(a)
      p = GlobalAveragePool(i) f = Flatten(p) [last] y = Gemm<transB=1>(f, m, e) }"""


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)


def quantized(
    *patterns: str, target: str = "generic", opset: int = 17
) -> tuple[ir.Model, QuantizeStaticReport]:
    model, report = quantize_static(
        parse(NET % opset),
        images(16),
        target=target,
        rounding="nearest",
        observer="minmax",
        int16=patterns,
    )
    onnx.checker.check_model(model, full_check=True)
    return load(model), report


def widths(model: ir.Model, name: str) -> tuple[str, str | None]:
    """The types of what the named node reads and of what its output becomes."""
    node = next(node for node in model.graph if node.name == name)
    zero = const_array(node.inputs[0].producer().inputs[2])
    reader = next((u.node for u in node.outputs[0].uses() if len(u.node.inputs) == 3), None)
    after = None if reader is None else const_array(reader.inputs[2]).dtype.name
    return zero.dtype.name, after


def sqnr_db(model: ir.Model) -> float:
    data = images(32, seed=1)
    want = Session(load(parse(NET % 17))).run({"x": data})["y"]
    got = Session(model).run({"x": data})["y"]
    return float(10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()))


@pytest.mark.parametrize("target", ["generic", "qnn"])
@pytest.mark.parametrize("opset", [12, 17, 22])
def test_named_layers_have_16_bits_and_others_8(target: str, opset: int) -> None:
    model, _ = quantized("second", target=target, opset=opset)
    assert model.opset_imports[""] >= 21
    assert widths(model, "first") == ("uint8", "uint8")
    assert widths(model, "second") == ("uint16", "uint16")
    assert widths(model, "third") == ("uint8", "uint8")
    # Converted from 16 bits to 8 behind it, once for both readers.
    narrow = [
        node
        for node in model.graph
        if node.op_type == "QuantizeLinear"
        and node.inputs[0].producer() is not None
        and node.inputs[0].producer().op_type == "DequantizeLinear"
    ]
    assert [const_array(node.inputs[2]).dtype.name for node in narrow] == ["uint16", "uint8"]
    assert len(narrow[1].outputs[0].uses()[0].node.outputs[0].uses()) == 2


def test_what_moves_values_has_the_width_of_what_it_moves() -> None:
    model, _ = quantized("first", "second")
    assert widths(model, "first") == ("uint16", "uint16")
    assert widths(model, "pool") == ("uint16", "uint16")
    assert widths(model, "second") == ("uint16", "uint16")


def test_accuracy_rises_with_the_number_of_layers() -> None:
    none, some, every = (
        sqnr_db(quantized(*patterns)[0]) for patterns in ((), ("first", "second"), ("*",))
    )
    assert none - 0.1 < some < every
    # What is left are weights of 8 bits.
    assert every > 38


def test_a_sigmoid_on_qnn_has_steps_of_a_power_of_two() -> None:
    model, _ = quantized("gate", target="qnn")
    gate = next(node for node in model.graph if node.name == "gate")
    quantize = gate.outputs[0].uses()[0].node
    assert const_array(quantize.inputs[1]) == np.float32(2**-16)
    assert const_array(quantize.inputs[2]) == 0


def test_bias_has_the_scale_of_the_input_that_is_read() -> None:
    model, _ = quantized("second")
    for node in model.graph:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        data, weight, bias = (value.producer() for value in node.inputs)
        assert np.allclose(
            const_array(bias.inputs[1]),
            const_array(data.inputs[1]) * const_array(weight.inputs[1]),
            rtol=1e-6,
        )


def test_compensated_weights_fit_16_bit_activations() -> None:
    model = load(
        quantize_static(parse(NET % 17), images(64), target="generic", int16=["second"]).model
    )
    assert widths(model, "second") == ("uint16", "uint16")
    assert sqnr_db(model) > 28


def test_a_pattern_without_a_layer_is_an_error() -> None:
    with pytest.raises(OptionError, match="no node matches 'nowhere'"):
        quantized("nowhere")


def test_targets_without_16_bits_say_so() -> None:
    with pytest.raises(OptionError, match=r"'cpu'.*qnn, generic"):
        quantized("second", target="cpu")
