"""Packed weights that kernels read: numbers, sharing, and what no kernel takes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import QuantizeWeightsReport, quantize_weights
from onnxlite.model import load
from onnxlite.quantize.weight_only.options import Bits
from onnxlite.runtime import Session
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[n,64] x) => (float[n,%d] y) '
CASES = {
    "MatMul": (64, "<float[64,64] w> { y = MatMul(x, w) }"),
    "Gemm": (96, "<float[64,96] w, float[96] b> { y = Gemm(x, w, b) }"),
    "Gemm transB": (96, "<float[96,64] w, float[96] b> { y = Gemm<transB=1>(x, w, b) }"),
    "three axes": (
        96,
        """<float[64,96] w, int64[3] up = {1, -1, 64}, int64[2] down = {-1, 96}>
        { u = Reshape(x, up) t = MatMul(u, w) y = Reshape(t, down) }""",
    ),
    "shared": (
        64,
        "<float[64,64] w> { t = MatMul(x, w) r = Tanh(t) y = MatMul(r, w) }",
    ),
    "tied": (
        96,
        """<float[96,64] w, int64[1] i = {3}>
        { e = Gather(w, i) a = Add(x, e) v = Transpose<perm=[1,0]>(w) y = MatMul(a, v) }""",
    ),
    "odd block": (50, "<float[64,50] w> { y = MatMul(x, w) }"),
}


def packed(
    text: str, x: object = None, **options: object
) -> tuple[ir.Model, QuantizeWeightsReport]:
    result, report = quantize_weights(
        parse(text), samples=x, mode="compute", first_last_bits="same", **options
    )
    onnx.checker.check_model(result)
    return load(result), report


def sqnr_db(text: str, model: ir.Model) -> float:
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    want, got = (Session(m).run({"x": x})["y"] for m in (load(parse(text)), model))
    return float(10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()))


@pytest.mark.parametrize("block_size", [None, 0, 16])
@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2, "ternary", "binary"])
@pytest.mark.parametrize("name", CASES)
def test_kernels_compute_what_decoding_gives(name: str, bits: Bits, block_size: int | None) -> None:
    text = HEAD % CASES[name][0] + CASES[name][1]
    model, report = packed(text, bits=bits, block_size=block_size)
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MatMulNBits"] == (2 if name == "shared" else 1)
    assert kinds["GatherBlockQuantized"] == (name == "tied")
    assert not {"MatMul", "Gemm", "Gather", "BitShift"} & set(kinds)
    # Codes have one copy, and no float weight is left.
    large = [v for v in model.graph.initializers.values() if v.const_value.size > 500]
    assert [v.dtype for v in large] == [ir.DataType.UINT8]
    least = {8: 28, 6: 25, 5: 19, 4: 13, 3: 7, 2: 1, "ternary": 2, "binary": 0.5}[bits]
    assert sqnr_db(text, model) > least
    assert report.layers[0].bits == str(bits)


def test_what_no_kernel_takes_is_decoded_at_load() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8,8,8] x) => (float[n,32,6,6] y) <float[32,8,3,3] w> { y = Conv(x, w) }"""
    model, report = packed(text, bits=4)
    assert report.changed
    assert any(d.what == "kernel" and "two axes" in d.message for d in report.skipped)
    assert "BitShift" in {node.op_type for node in model.graph}
    both = (
        HEAD % 64
        + """<float[64,64] w, int64[1] i = {3}>
        { t = MatMul(x, w) e = Gather(w, i) y = Add(t, e) }"""
    )
    model, report = packed(both, bits=8)
    assert any("rows" in d.message for d in report.skipped)
    assert sqnr_db(both, model) > 30


def test_activations_are_rounded_where_it_costs_little() -> None:
    text = HEAD % 64 + "<float[64,64] w> { y = MatMul(x, w) }"
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model, _ = packed(text, x, bits=4)
    (kernel,) = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert kernel.attributes["accuracy_level"].as_int() == 4
    # One value a thousand times the others of its block takes all of int8.
    x[:, 0] *= 1e4
    weight = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    weight[0] = 0
    proto = parse(text)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    model = load(
        quantize_weights(
            proto, samples=x, bits=4, first_last_bits="same", mode="compute", method="rtn"
        ).model
    )
    (kernel,) = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert kernel.attributes["accuracy_level"].as_int() == 0
