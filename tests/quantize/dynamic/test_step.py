"""Dynamic quantization: which kernel a layer gets, that it computes the same, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite import QuantizeDynamicReport, quantize_dynamic
from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.cache import Cache
from onnxlite.errors import OptionError
from onnxlite.graph import const_array, iter_nodes
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.quantize.dynamic.kernel_times import KernelTimes
from onnxlite.quantize.dynamic.kernels import BLOCKS, INTEGER
from onnxlite.runtime import Session
from tests.odd_models import parse
from tests.quantize.checks import applied, executed, sqnr_db

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def quantized(
    text: str, data: object = None, **options: object
) -> tuple[ir.Model, QuantizeDynamicReport]:
    return applied(quantize_dynamic, text, samples=data, **options)


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


#: Products with one constant operand, by what is odd about them.
PRODUCTS = {
    "right": "(float[n,6,32] x) => (float[n,6,16] y) <float[32,16] w> { y = MatMul(x, w) }",
    "left": "(float[n,32,6] x) => (float[n,16,6] y) <float[16,32] w> { y = MatMul(w, x) }",
    "vector": "(float[32] x) => (float[16] y) <float[32,16] w> { y = MatMul(x, w) }",
    "a weight per head": """(float[n,3,6,32] x) => (float[n,3,6,16] y) <float[3,32,16] w>
        { y = MatMul(x, w) }""",
    "Gemm": """(float[n,32] x) => (float[n,16] y) <float[16,32] w, float[16] b>
        { y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b) }""",
    "Gemm with a computed bias": """(float[n,32] x, float[16] b) => (float[n,16] y)
        <float[32,16] w> { y = Gemm<beta=0.25>(x, w, b) }""",
    "odd sizes": "(float[n,5,37] x) => (float[n,5,11] y) <float[37,11] w> { y = MatMul(x, w) }",
}


def feed_of(text: str) -> dict[str, np.ndarray]:
    inputs = load(parse(text)).graph.inputs
    return {v.name: rows(*(d if isinstance(d, int) else 3 for d in v.shape)) for v in inputs}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_integer_kernel_computes_the_product(kind: str) -> None:
    text = f"{HEAD} g {PRODUCTS[kind]}"
    model, report = quantized(text, kernel="integer")
    operators = Counter(node.op_type for node in model.graph)
    assert operators["MatMulInteger"] == operators["DynamicQuantizeLinear"] == 1
    assert not operators["MatMul"] + operators["Gemm"]
    assert [v.dtype for v in model.graph.initializers.values() if v.const_value.size > 100] == [
        ir.DataType.INT8
    ]
    assert sqnr_db(text, model, feed_of(text)) > 33
    assert report.layers[0].kernel == "integer"
    assert report.layers[0].weight_sqnr_db > 38


@pytest.mark.parametrize("kind", ["right", "Gemm", "Gemm with a computed bias", "odd sizes"])
def test_blocks_kernel_computes_the_product(kind: str) -> None:
    text = f"{HEAD} g {PRODUCTS[kind]}"
    model, report = quantized(text, kernel="blocks")
    assert Counter(node.op_type for node in model.graph)["MatMulNBits"] == 1
    assert sqnr_db(text, model, feed_of(text)) > 33
    assert report.layers[0].kernel == "blocks"


@pytest.mark.parametrize("kind", ["left", "vector", "a weight per head"])
def test_blocks_kernel_refuses_what_it_cannot_take(kind: str) -> None:
    model, report = quantized(f"{HEAD} g {PRODUCTS[kind]}", kernel="blocks")
    assert not report.changed
    assert "MatMulNBits" in report.skipped[0].message
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_blocks_refuse_where_pairs_saturate() -> None:
    text = f"{HEAD} g {PRODUCTS['right']}"
    _, report = quantized(text, kernel="blocks", target="cpu-avx2")
    assert "saturate" in report.skipped[0].message
    model, _ = quantized(text, kernel="integer", target="cpu-avx2")
    (weight,) = [const_array(v) for v in model.graph.initializers.values() if v.shape == (32, 16)]
    pairs = weight.astype(int).reshape(16, 2, 16)
    same = np.sign(pairs[:, 0]) == np.sign(pairs[:, 1])
    assert (np.abs(pairs).sum(axis=1)[same] <= 128).all()


def test_layers_that_read_one_value_share_its_integers_and_fuse(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[n,6,32] x) => (float[n,6,32] y)
        <float[32,32] q, float[32,32] k, float[32,32] v, float[32] b>
        {{ a = MatMul(x, q) c = Add(a, b) d = MatMul(x, k) e = MatMul(x, v)
           s = Add(c, d) y = Add(s, e) }}"""
    model, report = quantized(text, kernel="integer")
    assert report.changes.layers_quantized == 3
    ran = executed(model, tmp_path)
    assert ran["DynamicQuantizeLinear"] == 1
    assert ran["MatMulIntegerToFloat"] == 3
    assert ran["Cast"] == ran["Mul"] == 0
    assert sqnr_db(text, model, {"x": rows(3, 6, 32)}) > 33


def test_shared_weight_is_stored_once_and_no_float_copy_stays() -> None:
    text = f"""{HEAD} g (float[n,32] x) => (float[n,32] y) <float[32,32] w>
        {{ t = MatMul(x, w) r = Relu(t) y = MatMul(r, w) }}"""
    model, _ = quantized(text, kernel="integer")
    large = [v for v in model.graph.initializers.values() if v.const_value.size > 100]
    assert [v.dtype for v in large] == [ir.DataType.INT8]


LSTM = f"""{HEAD} g (float[s,n,16] x, float[2,n,24] h, float[2,n,24] c)
    => (float[s,2,n,24] y, float[2,n,24] hn, float[2,n,24] cn)
    <float[2,96,16] w, float[2,96,24] r, float[2,192] b>
    {{ y, hn, cn = LSTM<hidden_size=24, direction="bidirectional">(x, w, r, b, , h, c) }}"""


def test_lstm_of_two_directions() -> None:
    feed = {"x": rows(7, 3, 16), "h": 0.1 * rows(2, 3, 24), "c": 0.1 * rows(2, 3, 24)}
    model, report = quantized(LSTM, [feed], kernel="integer")
    assert [node.op_type for node in model.graph] == ["DynamicQuantizeLSTM"]
    assert sqnr_db(LSTM, model, feed) > 30
    assert report.layers[0].kernel == "lstm"


def test_lstm_without_optional_values() -> None:
    text = f"""{HEAD} g (float[s,n,16] x) => (float[1,n,24] h)
        <float[1,96,16] w, float[1,96,24] r> {{ , h = LSTM<hidden_size=24>(x, w, r) }}"""
    model, _ = quantized(text, kernel="integer")
    assert sqnr_db(text, model, {"x": rows(7, 3, 16)}) > 30


def test_recurrent_layers_without_a_kernel_are_named() -> None:
    text = f"""{HEAD} g (float[s,n,16] x) => (float[1,n,24] h)
        <float[1,72,16] w, float[1,72,24] r> {{ , h = GRU<hidden_size=24>(x, w, r) }}"""
    _, report = quantized(text)
    assert not report.changed
    assert (report.skipped[0].node, report.skipped[0].code) == ("GRU", "no-kernel")


BRANCHES = f"""{HEAD} g (bool flag, float[n,32] x) => (float[n,32] y) <float[32,32] w>
    {{ y = If(flag) <
        then_branch = yes () => (float[n,32] a) <float[32,32] v> {{ t = MatMul(x, v) a = Relu(t) }},
        else_branch = no () => (float[n,32] b) {{ t = MatMul(x, w) b = Tanh(t) }}> }}"""


GRU_AND_PRODUCT = """g (float[t,n,64] x) => (float[t,n,8] y)
    <float[1,96,64] w, float[1,96,32] r, float[32,8] v>
    { h = GRU<hidden_size=32>(x, w, r) s = Squeeze<axes=[1]>(h) y = MatMul(s, v) }"""


def test_weights_without_a_kernel_are_stored_in_8_bits() -> None:
    text = f'<ir_version: 8, opset_import: ["": 11]> {GRU_AND_PRODUCT}'
    data = rows(5, 3, 64)
    model, report = quantized(text, {"x": data}, kernel="integer")
    assert [row.weight for row in report.stored_weights] == ["w", "r"]
    assert report.changes.weights_stored == 2
    assert "2 weights stored in 8 bits" in report.summary
    assert sqnr_db(text, model, {"x": data}) > 30
    floats = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert all(v.const_value.size <= 96 for v in floats)


@pytest.mark.parametrize("options", [{"storage": False}, {"include": ["y*"]}, {"exclude": ["h*"]}])
def test_weights_are_left_alone_if_asked(options: dict[str, object]) -> None:
    text = f'<ir_version: 8, opset_import: ["": 11]> {GRU_AND_PRODUCT}'
    names = {"h": "h_node", "y": "y_node"}
    model = parse(text)
    for node in model.graph.node:
        node.name = names.get(node.output[0], node.op_type)
    report = quantize_dynamic(
        model, samples={"x": rows(5, 3, 64)}, kernel="integer", **options
    ).report
    assert report.changed
    assert not report.stored_weights


def test_bodies_of_if_are_quantized() -> None:
    model, report = quantized(BRANCHES, kernel="integer")
    assert report.changes.layers_quantized == 2
    assert not any(node.op_type == "MatMul" for node in iter_nodes(model))
    for flag in (True, False):
        assert sqnr_db(BRANCHES, model, {"flag": np.array(flag), "x": rows(3, 32)}) > 30


def test_body_of_a_loop_is_quantized() -> None:
    text = f"""{HEAD} g (float[2,32] x) => (float[2,32] y)
        <int64 trips = {{3}}, bool go = {{1}}, float[32,32] w>
        {{ y = Loop(trips, go, x) <body = step (int64 i, bool c, float[2,32] s)
            => (bool d, float[2,32] t) {{ d = Identity(c) m = MatMul(s, w) t = Tanh(m) }}> }}"""
    model, report = quantized(text, kernel="integer")
    assert report.changes.layers_quantized == 1
    assert sqnr_db(text, model, {"x": 0.1 * rows(2, 32)}) > 25


TABLE = f"""{HEAD} g (int64[n,s] ids) => (float[n,s,64] y) <float[500,64] table, float[64,64] w>
    {{ t = Gather(table, ids) y = MatMul(t, w) }}"""


def test_embeddings_have_a_scale_per_row() -> None:
    ids = np.random.default_rng(0).integers(0, 500, (3, 7))
    model, report = quantized(TABLE, {"ids": ids}, kernel="integer")
    assert report.changes.layers_quantized == report.changes.tables_quantized == 1
    assert sqnr_db(TABLE, model, {"ids": ids}) > 33
    floats = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert max(v.const_value.size for v in floats) == 500
    model, report = quantized(TABLE, {"ids": ids}, kernel="integer", embeddings=False)
    assert report.changes.tables_quantized == 0
    assert sum(node.op_type == "Gather" for node in model.graph) == 1


def test_static_quantization_stores_tables_in_rows_too() -> None:
    ids = np.random.default_rng(0).integers(0, 500, (16, 7))
    model = load(parse(TABLE))
    for target, tables in (("cpu", 1), ("openvino", 0)):
        result, report = quantize_static(model, {"ids": ids}, rounding="nearest", target=target)
        assert report.changes.tables_quantized == tables
        assert sqnr_db(TABLE, result, {"ids": ids}) > 33
    result = quantize_static(model, {"ids": ids}, rounding="nearest", embeddings=False).model
    assert Counter(node.op_type for node in result.graph)["Gather"] == 1


def test_small_tables_stay_float() -> None:
    _, report = quantized(TABLE.replace("500,64", "50,64"), kernel="integer")
    assert report.changes.tables_quantized == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float[n,4] x) => (float[n,n] y) { t = Transpose(x) y = MatMul(x, t) }", "run time"),
        ("(float[4,n] x) => (float[n,4] y) <float[4,4] w> { y = Gemm<transA=1>(x, w) }", "transA"),
        ("(double[n,4] x) => (double[n,4] y) <double[4,4] w> { y = MatMul(x, w) }", "not float32"),
        ("(float[n,4] x) => (float[n] y) <float[4] w> { y = MatMul(x, w) }", "two axes"),
        (
            "(float[n,3,8,8] x) => (float[n,4,6,6] y) <float[4,3,3,3] w> { y = Conv(x, w) }",
            "no Conv kernel",
        ),
    ],
)
def test_what_stays_float_says_why(body: str, reason: str) -> None:
    _, report = quantized(f"{HEAD} g {body}")
    assert not report.changed
    assert reason in report.skipped[0].message


def test_a_quantized_model_is_not_quantized_again() -> None:
    text = f"{HEAD} g {PRODUCTS['right']}"
    for kernel in ("integer", "blocks"):
        proto = quantize_dynamic(parse(text), kernel=kernel).model
        assert "quantized already" in quantize_dynamic(proto).report.summary


def test_patterns_and_target() -> None:
    text = f"""{HEAD} g (float[n,32] x) => (float[n,32] y) <float[32,32] w, float[32,32] v>
        {{ t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }}"""
    _, report = quantized(text, kernel="integer")
    first, second = (row.name for row in report.layers)
    _, report = quantized(text, kernel="integer", exclude=[first])
    assert [row.name for row in report.layers] == [second]
    with pytest.raises(OptionError, match="no node matches 'none'"):
        quantized(text, kernel="integer", include=["none"])
    for name in ("abacus", "tensorrt"):
        with pytest.raises(OptionError, match="choose one of cpu"):
            quantize_dynamic(parse(text), target=name)


def times(ratios: dict[str, float]) -> object:
    def measured(self: KernelTimes, *_: object) -> dict[str, float]:
        return ratios

    return measured


@pytest.mark.parametrize(
    ("ratios", "kernel"),
    [
        ({"integer": 0.4, "blocks": 0.8}, "integer"),
        ({"integer": 0.8, "blocks": 0.4}, "blocks"),
        ({"integer": 0.50, "blocks": 0.49}, "integer"),  # no more than chance
        ({"integer": 1.2, "blocks": 0.99}, None),
    ],
)
def test_the_faster_kernel_is_taken(
    ratios: dict[str, float], kernel: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelTimes, "ratios", times(ratios))
    _, report = quantized(f"{HEAD} g {PRODUCTS['right']}")
    assert report.changed == (kernel is not None)
    if kernel is None:
        assert "integer 1.20, blocks 0.99" in report.skipped[0].message
    else:
        assert report.layers[0].kernel == kernel


def test_times_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[64,256] x) => (float[64,512] y) <float[256,512] w> { y = MatMul(x, w) }"""
    model = load(parse(text))
    node = next(iter(model.graph))
    target = TARGETS["cpu"]
    first = KernelTimes(cache=Cache(tmp_path))
    ratios = first.ratios(model, node, concrete_shapes(model), (INTEGER, BLOCKS), target)
    assert isinstance(ratios, dict)
    assert all(0.02 < ratio < 50 for ratio in ratios.values())
    first.keep()
    monkeypatch.delattr(KernelTimes, "_measure")
    again = KernelTimes(cache=Cache(tmp_path))
    assert again.ratios(model, node, concrete_shapes(model), (INTEGER, BLOCKS), target) == ratios


def test_branches_without_samples_follow_their_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(self: KernelTimes, _model: object, node: ir.Node, *_: object) -> object:
        return {"integer": 0.5, "blocks": 0.9} if node.graph.name == "yes" else "not reached"

    monkeypatch.setattr(KernelTimes, "ratios", measured)
    _, report = quantized(BRANCHES)
    assert report.changes.layers_quantized == 2


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 9), k=st.integers(1, 70), n=st.integers(1, 20), seed=st.integers(0, 99),
    kernel=st.sampled_from(["integer", "blocks"]),
)  # fmt: skip
def test_error_is_bounded_for_every_size(m: int, k: int, n: int, seed: int, kernel: str) -> None:
    text = (
        f"{HEAD} g (float[{m},{k}] x) => (float[{m},{n}] y) <float[{k},{n}] w> {{ y=MatMul(x,w) }}"
    )
    proto = parse(text)
    model = quantize_dynamic(load(proto), kernel=kernel).model
    feed = {"x": rows(m, k, seed=seed)}
    want, got = Session(load(proto)).run(feed)["y"], Session(model).run(feed)["y"]
    weight = next(iter(load(proto).graph.initializers.values())).const_value.numpy()
    x_max, w_max = np.abs(feed["x"]).max(), np.abs(weight).max()
    # Half a step of each operand in each of k products.
    x_step = (max(feed["x"].max(), 0) - min(feed["x"].min(), 0)) / 255
    worst = k * (0.5 * x_step * w_max + 0.5 * w_max / 127 * x_max)
    assert np.abs(want - got).max() <= 1.1 * worst + 1e-5


@pytest.mark.parametrize(
    ("inputs", "weights", "stays"),
    [(5e36, 1, True), (3e36, 1, True), (5e18, 1e18, True), (1e19, 1, False), (1, 1, False)],
)
def test_layers_whose_sums_exceed_float32_stay_float(inputs, weights, stays):
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }""")
    rng = np.random.default_rng(0)
    w = (weights * rng.standard_normal((64, 64))).astype(np.float32)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(w, "w"))
    x = (inputs * rng.standard_normal((16, 64))).astype(np.float32)
    report = quantize_dynamic(proto, samples=x, kernel="blocks").report
    assert [s.code for s in report.skipped if s.what == "quantize"] == ["too-large"] * stays
    assert report.changed != stays
