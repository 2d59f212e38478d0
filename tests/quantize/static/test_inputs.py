"""Models and samples of every awkward kind: quantized, or skipped with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import QuantizeStaticReport
from onnxlite.errors import OptionError, SamplesError
from onnxlite.graph import iter_nodes
from onnxlite.model import load, mapped_files
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import feeds, odd, parse


def quantized(
    model: object, samples: object, **options: object
) -> tuple[ir.Model, QuantizeStaticReport]:
    options = {"rounding": "nearest", **options}
    result, report = quantize_static(model, samples, **options)
    return load(result), report


def operator(node: str) -> str:
    return node.rstrip("_0123456789")


def noise(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def sqnr_db(before: object, after: ir.Model, feed: dict[str, np.ndarray]) -> float:
    want, got = Session(load(before)).run(feed), Session(after).run(feed)
    return min(
        float(10 * np.log10((want[k] ** 2).sum() / ((want[k] - got[k]) ** 2).sum())) for k in want
    )


# Quantized already.


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_its_own_result_is_not_quantized_again(form: str) -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x) => (float[n,8] y) <float[8,8] w, float[8,8] v>
        { t = MatMul(x, w) r = Relu(t) y = MatMul(r, v) }""")
    once, _ = quantized(proto, noise(4, 8), form=form)
    again, report = quantized(once, noise(4, 8))
    assert not report.changed
    assert "quantized already" in report.summary
    assert [n.op_type for n in again.graph] == [n.op_type for n in once.graph]


@pytest.mark.parametrize(
    "operator",
    [
        "y = com.microsoft.MatMulIntegerToFloat(i, w, s, s)",
        "a = MatMulInteger(i, w) y = Cast<to=1>(a)",
        "y = com.microsoft.QGemm(i, s, z, w, s, z)",
    ],
)
def test_integer_operators_are_recognised(operator: str) -> None:
    proto = parse(f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (uint8[n,2] i, float[n,2] x) => (float[n,2] y, float[n,2] u)
        <uint8[2,2] w = {{1,2,3,4}}, float s = {{0.1}}, uint8 z = {{0}}, float[2,2] v>
        {{ {operator} u = MatMul(x, v) }}""")
    feed = {"i": np.ones((2, 2), np.uint8), "x": noise(2, 2)}
    _, report = quantized(proto, feed)
    assert not report.changed
    assert "quantized already" in report.summary


@pytest.mark.parametrize("name", ["QDQ quantized", "QOperator quantized", "int4 weight"])
def test_models_of_other_tools_are_not_quantized_again(name: str) -> None:
    _, report = quantized(odd(name), feeds(name))
    assert not report.changed
    assert "quantize the float model that it was made from" in report.summary


# Old operator sets.


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12])
def test_old_operator_sets_are_upgraded(opset: int) -> None:
    clip = "Clip<min=0.0, max=6.0>(t)" if opset < 11 else "Clip(t, low, high)"
    proto = parse(f"""<ir_version: 4, opset_import: ["": {opset}]>
        g (float[n,4,8,8] x) => (float[n,4,8,8] y)
        <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float low = {{0}}, float high = {{6}}>
        {{ t = Conv<pads=[1,1,1,1]>(x, w, b) r = {clip} y = Conv(r, v) }}""")
    data = noise(6, 4, 8, 8)
    model, report = quantized(proto, data)
    assert model.opset_imports[""] >= 13
    assert report.changes.layers_quantized == 2
    assert report.changes.activations_absorbed == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert sqnr_db(proto, model, {"x": data}) > 28


# Shapes.


@pytest.mark.parametrize("target", ["cpu", "qnn"])
@pytest.mark.parametrize("form", ["float[n,4,h,w] x", "float[?,?,?,?] x"])
def test_dynamic_shapes_stay_dynamic(form: str, target: str) -> None:
    proto = parse(f"""<ir_version: 8, opset_import: ["": 17]>
        g ({form}) => (float[n,4,h,w] y)
        <float[4,4,3,3] k, float[4] b, float[4,4,1,1] v, float[4] c>
        {{ t = Conv<pads=[1,1,1,1]>(x, k, b) r = Relu(t) y = Conv(r, v, c) }}""")
    samples = [{"x": noise(2, 4, 8, 8)}, {"x": noise(1, 4, 5, 9)}]
    model, report = quantized(proto, samples, target=target)
    assert report.changes.layers_quantized == 2
    for shape in ((1, 4, 7, 3), (3, 4, 12, 12)):
        assert sqnr_db(proto, model, {"x": noise(*shape)}) > 25
    assert ir.to_proto(model).graph.input[0] == proto.graph.input[0]


# Shared weights.


def test_a_weight_that_two_layers_share_is_stored_once() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x) => (float[n,8] y) <float[8,8] w, float[8] b>
        { t = Gemm(x, w, b) r = Relu(t) y = Gemm(r, w, b) }""")
    data = noise(16, 8)
    model, report = quantized(proto, data)
    assert report.changes.layers_quantized == 2
    stored = [v for v in model.graph.initializers.values() if v.const_value.size == 64]
    assert [v.dtype for v in stored] == [ir.DataType.INT8]
    assert sqnr_db(proto, model, {"x": data}) > 28


def test_a_shared_weight_is_fitted_for_each_layer_by_itself() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x) => (float[n,8] y) <float[8,8] w, float[8] b>
        { t = Gemm(x, w, b) r = Relu(t) y = Gemm<transB=1>(r, w, b) }""")
    data = noise(256, 8)
    model, _ = quantized(proto, data, rounding="compensated")
    assert sqnr_db(proto, model, {"x": data}) > 28


def test_a_weight_that_a_float_node_reads_too_is_kept_for_it() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y, float[4,4] e) <float[4,4] w>
        { y = MatMul(x, w) e = Exp(w) }""")
    model, _ = quantized(proto, noise(8, 4))
    assert "w" in model.graph.initializers
    before = Session(load(proto)).run({"x": noise(8, 4)})
    assert np.array_equal(before["e"], Session(model).run({"x": noise(8, 4)})["e"])


# Control flow and recurrent layers.


@pytest.mark.parametrize("name", ["If", "Loop", "Scan"])
def test_layers_in_bodies_are_skipped(name: str) -> None:
    _, report = quantized(odd(name), feeds(name))
    assert not report.changed
    assert report.skipped
    assert all("body of a control-flow node" in d.message for d in report.skipped)


def stays_float(report: QuantizeStaticReport) -> list[str]:
    """The operators of the layers that were not placed on integers."""
    return [operator(d.node) for d in report.skipped if d.what == "quantize"]


def test_layers_around_an_if_are_quantized_and_its_bodies_stay() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x, bool flag) => (float[n,8] y) <float[8,8] w, float[8,8] v>
        { t = MatMul(x, w)
          u = If(flag) <then_branch = yes () => (float[n,8] a) { a = MatMul(t, v) },
                        else_branch = no () => (float[n,8] b) { b = MatMul(t, w) }>
          y = MatMul(u, w) }""")
    # The samples take one branch only: what fits them closely does not fit the other.
    data = {"x": noise(16, 8), "flag": np.array(True)}
    model, report = quantized(proto, data, observer="minmax", smooth=False)
    assert report.changes.layers_quantized == 2
    assert [operator(d.node) for d in report.skipped if d.what == "quantize"] == [
        "MatMul",
        "MatMul",
    ]
    # The branch still reads the float weight that the layers outside have as integers.
    assert "w" in model.graph.initializers
    for flag in (True, False):
        assert sqnr_db(proto, model, {"x": noise(16, 8), "flag": np.array(flag)}) > 25


@pytest.mark.parametrize("name", ["optional outputs left out", "recurrent state"])
def test_recurrent_layers_are_skipped_by_name(name: str) -> None:
    _, report = quantized(odd(name), feeds(name))
    assert not report.changed
    assert [operator(d.node) for d in report.skipped] in (["LSTM"], ["GRU"])
    assert report.skipped[0].message == "it has no integer kernel"


def test_layers_around_a_recurrent_one_are_quantized() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[5,n,8] x) => (float[5,n,3] y)
        <float[8,6] w, float[1,16,6] i, float[1,16,4] r, int64[1] one = {1}, float[4,3] v>
        { t = MatMul(x, w) h = LSTM<hidden_size=4>(t, i, r) s = Squeeze(h, one)
          y = MatMul(s, v) }""")
    data = noise(5, 2, 8)
    model, report = quantized(proto, [{"x": data}])
    assert report.changes.layers_quantized == 2
    assert "LSTM" in {node.op_type for node in iter_nodes(model)}
    assert sqnr_db(proto, model, {"x": data}) > 25


def test_a_transposed_convolution_is_skipped_by_name() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4,4,4] x) => (float[n,4,8,8] y) <float[4,4,1,1] w, float[4,4,2,2] v>
        { t = Conv(x, w) y = ConvTranspose<strides=[2,2]>(t, v) }""")
    _, report = quantized(proto, noise(4, 4, 4, 4))
    assert report.changes.layers_quantized == 1
    assert [operator(d.node) for d in report.skipped if d.what == "quantize"] == ["ConvTranspose"]


# Samples.


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_named(value: float) -> None:
    data = noise(4, 3, 8, 8)
    data[2, 1, 0, 0] = value
    with pytest.raises(SamplesError, match=r"'x' has (1 NaN|infinite).*preprocessing"):
        quantized(odd("plain"), data)


def test_an_inner_value_that_overflows_is_named() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
        { t = MatMul(x, w) [logarithm] l = Log(t) y = MatMul(l, w) }""")
    with pytest.raises(SamplesError, match=r"'l'.*'logarithm'.*nan"):
        quantized(proto, noise(4, 4))


@pytest.mark.parametrize("samples", [[], np.zeros((0, 3, 8, 8), np.float32)])
def test_no_samples_is_an_error(samples: object) -> None:
    with pytest.raises(SamplesError, match="samples are empty"):
        quantized(odd("plain"), samples)
    with pytest.raises(OptionError, match="limit"):
        quantized(odd("plain"), noise(4, 3, 8, 8), limit=0)


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_samples_without_variation_are_quantized(value: float) -> None:
    data = np.full((4, 3, 8, 8), value, np.float32)
    model, report = quantized(odd("plain"), data)
    assert report.changed
    want = Session(load(odd("plain"))).run({"x": data})["y"]
    got = Session(model).run({"x": data})["y"]
    assert np.abs(want - got).max() <= 0.02 * max(1.0, np.abs(want).max())


# Nothing to quantize, and other number types.


@pytest.mark.parametrize("name", ["no nodes", "no inputs", "scalars", "If in a Loop"])
def test_nothing_to_quantize_is_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, report = quantized(odd(name), feeds(name))
    assert not report.changed
    assert report.summary == "no layer can be quantized: it has none with weights"
    assert "changed nothing: no layer can be quantized" in caplog.text
    assert [n.op_type for n in model.graph] == [n.op_type for n in load(odd(name)).graph]


@pytest.mark.parametrize(("name", "dtype"), [("float16", "FLOAT16"), ("double", "DOUBLE")])
def test_other_precisions_are_skipped_with_the_remedy(name: str, dtype: str) -> None:
    _, report = quantized(odd(name), feeds(name))
    assert not report.changed
    assert dtype in report.skipped[0].message
    assert "quantize the float32 model" in report.skipped[0].message


def test_float32_layers_of_a_mixed_model_are_quantized() -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w, float16[4,4] v>
        { t = MatMul(x, w) h = Cast<to=10>(t) u = MatMul(h, v) y = Cast<to=1>(u) }""")
    _, report = quantized(proto, noise(16, 4))
    assert report.changes.layers_quantized == 1
    assert "FLOAT16" in report.skipped[0].message


@pytest.mark.parametrize("name", ["weight behind Identity", "weight behind Transpose and Cast"])
def test_weights_that_can_be_folded_ask_for_simplification(name: str) -> None:
    _, report = quantized(odd(name), feeds(name))
    assert "simplify the model first" in report.skipped[0].message


# External data.


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_external_data_is_read_and_the_files_stay(
    form: str, external_model: Path, tmp_path: Path
) -> None:
    files = {path: path.read_bytes() for path in external_model.parent.iterdir()}
    data = noise(16, 32)
    model, report = quantized(external_model, data, form=form)
    assert report.changes.layers_quantized == 2
    assert not any(file.suffix == ".data" for file in mapped_files(model))
    assert sqnr_db(external_model, model, {"x": data}) > 28
    target = tmp_path / "small" / "small.onnx"
    target.parent.mkdir()
    save(model, target, external_data="always")
    assert sqnr_db(external_model, load(target), {"x": data}) > 28
    assert {path: path.read_bytes() for path in files} == files
