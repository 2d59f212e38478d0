"""MACs, parameters and bytes of layers whose cost is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.cost import LayerCost, ModelCost, cost
from onnxlite.model import load
from tests.odd_models import odd, parse

#: Takes multiples of 11 values only, which no guess has.
UNGUESSABLE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[a,b] x) => (float[c,4] y) <int64[2] s = {-1, 11}, float[11,4] w>
    { r = Reshape(x, s) y = MatMul(r, w) }"""
HEAD = '<ir_version: 8, opset_import: ["": 17]> g '

KNOWN = {
    # output 1x8x6x6 of 3x3 kernels over 3 channels
    "Conv": ("(float[n,3,8,8] x) => (y) <float[8,3,3,3] w> { y = Conv(x, w) }", 288 * 27),
    "strided Conv with pads": (
        "(float[n,3,8,8] x) => (y) <float[8,3,3,3] w>"
        "{ y = Conv<strides = [2,2], pads = [1,1,1,1]>(x, w) }",
        8 * 16 * 27,
    ),
    "depthwise Conv": (
        "(float[n,6,8,8] x) => (y) <float[6,1,3,3] w> { y = Conv<group = 6>(x, w) }",
        6 * 36 * 9,
    ),
    "grouped Conv": (
        "(float[n,6,8,8] x) => (y) <float[4,3,1,1] w> { y = Conv<group = 2>(x, w) }",
        4 * 64 * 3,
    ),
    # every input position meets every kernel weight of its channel
    "ConvTranspose": (
        "(float[n,3,4,4] x) => (y) <float[3,5,2,2] w>{ y = ConvTranspose<strides = [2,2]>(x, w) }",
        3 * 16 * 5 * 4,
    ),
    "Gemm": ("(float[n,7] x) => (y) <float[5,7] w> { y = Gemm<transB = 1>(x, w) }", 35),
    "Gemm of a transposed input": (
        "(float[7,2] x) => (y) <float[7,5] w> { y = Gemm<transA = 1>(x, w) }",
        2 * 7 * 5,
    ),
    "batched MatMul": ("(float[n,2,3,4] x) => (y) <float[4,5] w> { y = MatMul(x, w) }", 120),
    "MatMul of two activations": (
        "(float[n,3,4] x) => (y) { t = Transpose<perm = [0,2,1]>(x)  y = MatMul(x, t) }",
        36,
    ),
    # 5 steps of (3 + 4) inputs to 4 gates of 4 units
    "LSTM": (
        "(float[5,1,3] x) => (y) <float[1,16,3] w, float[1,16,4] r>"
        "{ y = LSTM<hidden_size = 4>(x, w, r) }",
        5 * 16 * 7,
    ),
    "Einsum": (
        '(float[n,3,4] x) => (y) <float[4,5] w> { y = Einsum<equation = "bij,jk->bik">(x, w) }',
        60,
    ),
    "Relu": ("(float[n,3] x) => (y) { y = Relu(x) }", 0),
}


def measure(text: str, *, batch: int = 1, sparsity: bool = False) -> ModelCost:
    text = HEAD + text.replace("=> (y)", "=> (float[] y)")
    return cost(load(parse(text)), batch=batch, sparsity=sparsity)


def layer(result: ModelCost, op_type: str) -> LayerCost:
    (row,) = [row for row in result.layers if row.op_type == op_type]
    return row


@pytest.mark.parametrize("name", KNOWN)
def test_macs_of_known_layers(name: str) -> None:
    text, macs = KNOWN[name]
    assert measure(text).macs == macs


@pytest.mark.parametrize("name", [name for name, (text, _) in KNOWN.items() if "[n," in text])
def test_macs_grow_with_the_batch(name: str) -> None:
    text, macs = KNOWN[name]
    assert measure(text, batch=3).macs == 3 * macs


def test_a_row_holds_what_the_layer_is() -> None:
    result = measure("""(float[n,3,8,8] x) => (y) <float[4,3,3,3] w, float[4] b>
        { [first] c = Conv(x, w, b)  y = Relu(c) }""")
    assert result.layers == (
        LayerCost(
            name="first",
            op_type="Conv",
            weight_shape=(4, 3, 3, 3),
            weight_type="float32",
            parameters=112,
            size_bytes=448,
            macs=4 * 36 * 27,
            output_shape=(1, 4, 6, 6),
        ),
    )
    assert result.parameters == 112
    assert result.inputs == {"x": (1, 3, 8, 8)}
    assert result.notes == ()


def test_a_quantized_weight_is_found_behind_its_dequantization() -> None:
    result = cost(load(odd("QDQ quantized")))
    row = layer(result, "MatMul")
    assert (row.weight_type, row.weight_shape, row.parameters, row.size_bytes) == (
        "int8",
        (4, 2),
        8,
        8,
    )
    assert row.macs == 8


@pytest.mark.parametrize("name", ["weight behind Identity", "weight behind Transpose and Cast"])
def test_a_weight_is_found_behind_what_changes_its_form(name: str) -> None:
    assert layer(cost(load(odd(name))), "MatMul").parameters == 12


def test_shared_weights_count_once_in_the_model_and_in_every_layer() -> None:
    result = cost(load(odd("shared weight")))
    assert result.parameters == 16
    assert [row.parameters for row in result.layers] == [16, 16]


def test_shape_constants_are_no_parameters() -> None:
    assert cost(load(odd("fixed batch"))).parameters == 5 * 27 + 80 * 5


def test_an_if_costs_its_dearest_branch() -> None:
    model = load(
        parse("""<ir_version: 8, opset_import: ["": 17]>
        g (bool flag, float[n,4] x) => (float[n,4] y) <float[4,4] w>
        { y = If(flag) <
            then_branch = yes () => (float[n,4] a) { t = MatMul(x, w)  a = MatMul(t, w) },
            else_branch = no () => (float[n,4] b) { b = MatMul(x, w) }> }""")
    )
    result = cost(model)
    assert result.macs == 32
    assert len(result.layers) == 3


def test_a_loop_body_counts_once_and_says_so() -> None:
    result = cost(load(odd("Loop")))
    assert result.macs == 8
    (note,) = result.notes
    assert "Loop" in note
    assert "once" in note


def test_a_weighted_operator_that_is_not_in_the_table_makes_macs_unknown() -> None:
    result = cost(load(odd("contrib op")))
    assert result.macs is None
    assert result.notes == ("MACs unknown: operator com.microsoft.FusedMatMul has no MAC rule",)


def test_an_unknown_shape_makes_macs_unknown() -> None:
    result = cost(load(parse(UNGUESSABLE)))
    assert result.macs is None
    assert "give samples" in result.notes[0]


def test_macs_follow_the_feed() -> None:
    feed = {"x": np.zeros((1, 3, 5, 5), np.float32)}
    assert cost(load(odd("unnamed dims")), feeds=[feed]).macs == 4 * 9 * 27


def test_zeros_are_counted_on_request() -> None:
    text = "(float[n,2] x) => (y) <float[2,2] w = {0, 1, 0, -0.0}> { y = MatMul(x, w) }"
    assert measure(text).layers[0].sparsity is None
    assert measure(text, sparsity=True).layers[0].sparsity == 0.75
