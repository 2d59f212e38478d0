"""Half precision: types of the whole graph, what stays float32, what the samples show."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import to_float16
from onnxlite.errors import OptionError
from onnxlite.graph import iter_nodes
from onnxlite.model import disk_bytes, load
from onnxlite.quantize.float16.options import ToFloat16Changes, ToFloat16Report
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import parse
from tests.quantize.checks import applied, sqnr_db

F16, F32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def converted(
    model: str | onnx.ModelProto, samples: object = None, **options: object
) -> tuple[ir.Model, ToFloat16Report]:
    return applied(to_float16, model, samples=samples, **options)


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in iter_nodes(model))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,5] y) <float[8,4,3,3] w, float[8] b, float[8,5] v>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) p = GlobalAveragePool(r) f = Flatten(p)
      y = MatMul(f, v) }"""


def test_every_weight_is_halved_and_the_interface_stays() -> None:
    model, report = converted(NET)
    assert {v.dtype for v in model.graph.initializers.values()} == {F16}
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (F32, F32)
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert kinds(model)["Cast"] == 2
    assert report.changes.nodes_converted == 5
    assert "not faster" in report.summary
    assert sqnr_db(NET, model, {"x": normal(3, 4, 8, 8)}) > 60


def test_float16_inputs_and_outputs_on_request() -> None:
    model, _ = converted(NET, io="float16")
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (F16, F16)
    assert not kinds(model)["Cast"]
    x = normal(3, 4, 8, 8)
    got = Session(model).run({"x": x.astype(np.float16)})["y"]
    want = Session(load(parse(NET))).run({"x": x})["y"]
    assert got.dtype == np.float16
    assert np.abs(got - want).max() < 0.01 * np.abs(want).max()


def test_storage_casts_back_at_load_and_computes_in_float32(tmp_path: Path) -> None:
    model, report = converted(NET, mode="storage")
    assert report.changes.nodes_converted == 0
    path = tmp_path / "ran.onnx"
    Session(model, threads=1, optimization="basic", optimized_path=path)
    assert "Cast" not in {node.op_type for node in onnx.load(path).graph.node}
    # Two bias vectors below 1 KB stay; both weights are halved.
    assert [v.dtype for v in model.graph.initializers.values()].count(F16) == 1


def test_arguments_that_must_be_float32_stay_so() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[1,2,4,4] x) => (float[1,2,8,8] y)
        <float[4] s = {1.0, 1.0, 2.0, 2.0}, float[0] roi = {}>
        { y = Resize<mode="linear">(x, roi, s) }"""
    model, _ = converted(text)
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[0].dtype == F16
    assert resize.inputs[2].dtype == F32
    assert sqnr_db(text, model, {"x": normal(1, 2, 4, 4)}) > 60


def test_types_that_come_from_attributes_follow() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (int64[3] i, float[n] x) => (float[n] y, int64[n] k)
        <int64[1] shape = {1}>
        { c = Cast<to=1>(i) z = ConstantOfShape<value: tensor = float[1] {2.5}>(shape)
          e = RandomUniformLike<low=0.0, high=0.000001>(x) a = Mul(c, z) b = Add(a, x)
          y = Add(b, e) k = Cast<to=7>(x) }"""
    model, _ = converted(text)
    made = {n.op_type: n.outputs[0].dtype for n in onnx_typed(model)}
    assert made["ConstantOfShape"] == F16
    assert made["RandomUniformLike"] == F16
    assert sqnr_db(text, model, {"i": np.arange(3), "x": normal(3)}) > 50


def onnx_typed(model: ir.Model) -> list[ir.Node]:
    from onnxlite.analysis.shapes import infer_shapes

    infer_shapes(model)
    return list(iter_nodes(model))


def test_what_counts_stays_float32() -> None:
    """2,049 is not a float16 number: a size computed in 16 bits would be wrong."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n] x) => (float[m] y)
        <float one = {1.0}, float half = {0.5}, float zero = {0.0}, int64[1] shape = {-1}>
        { s = Shape(x) f = Cast<to=1>(s) d = Add(f, one) h = Mul(d, half) i = Cast<to=7>(h)
          e = Expand(one, i) n0 = Squeeze(d) r = Range(zero, n0, one) q = Slice(r, o, i)
          y = Mul(e, q) }"""
    text = text.replace("int64[1] shape = {-1}", "int64[1] o = {0}")
    model, report = converted(text)
    got = Session(model).run({"x": normal(4097)})["y"]
    assert got.shape == (2049,)
    assert any(d.code == "counts" for d in report.skipped)


BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2,4] x, bool flag) => (float[2,4] y) <float[4,4] w>
    { t = MatMul(x, w)
      u = If(flag) <then_branch = yes () => (float[2,4] a) { a0 = Exp(t) a = MatMul(a0, w) },
                    else_branch = no () => (float[2,4] e) { e = Add(t, x) }>
      y = Mul(u, t) }"""


def test_branches_convert_inside_and_keep_float32_at_their_borders() -> None:
    model, report = converted(BRANCHES)
    assert report.changes.nodes_converted == 5
    for flag in (True, False):
        feed = {"x": normal(2, 4), "flag": np.array(flag)}
        assert sqnr_db(BRANCHES, model, feed) > 50


def test_loop_and_scan_bodies() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[4] x, float[5,4] s) => (float[4] y, float[k,4] z, float[4] p, float[5,4] q)
        <int64 trips = {3}, bool go = {1}, float[4] w = {0.5, 0.25, 1.0, 2.0}>
        { y, z = Loop(trips, go, x) <body = b (int64 i, bool c, float[4] v) =>
             (bool d, float[4] u, float[4] o) { d = Identity(c) u = Mul(v, w) o = Tanh(u) }>
          p, q = Scan(x, s) <num_scan_inputs = 1, body = c2 (float[4] a, float[4] e) =>
             (float[4] f, float[4] g2) { f = Add(a, e) g2 = Mul(f, w) }> }"""
    model, report = converted(text)
    assert report.changes.nodes_converted == 4
    assert sqnr_db(text, model, {"x": normal(4), "s": normal(5, 4)}) > 55


def test_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w> { y = own.twice(x, w) }
        <domain: "own", opset_import: ["": 17]>
        twice (a, m) => (c) { b = MatMul(a, m) c = Add(b, b) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(4, 4), "w"))
    model, report = converted(proto)
    assert report.changes.nodes_converted == 2
    assert sqnr_db(proto, model, {"x": normal(3, 4)}) > 55


MASK = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,4] x, float[1,4] m) => (float[1,4] y)
    <float one = {1.0}, float low = {-3.4e38}, float big = {1000.0}, float eps = {1e-12}>
    { d = Sub(one, m) a = Mul(d, low) s = Add(x, a) y0 = Softmax(s) h = Mul(x, big)
      h2 = Mul(h, big) h3 = Div(h2, big) h4 = Div(h3, big) e = Add(h4, eps) y = Mul(y0, e) }"""


def test_constants_beyond_the_range_are_clamped_and_named() -> None:
    model, report = converted(MASK)
    texts = {d.node: d.message for d in report.skipped}
    assert "clamped" in texts["low"]
    assert "smallest number above zero" in texts["eps"]
    feed = {"x": normal(1, 4), "m": np.float32([[1, 1, 0, 1]])}
    assert np.isfinite(Session(model).run(feed)["y"]).all()


def test_samples_find_overflow_and_keep_it_in_float32() -> None:
    data = {"x": 4 + 4 * normal(16, 4) ** 2, "m": (normal(16, 4) > -1).astype(np.float32)}
    data = {name: array[:, None] for name, array in data.items()}
    model, report = converted(MASK, data)
    reasons = " ".join(d.message for d in report.skipped)
    assert "'h2' reaches" in reasons
    for index in range(16):
        feed = {name: array[index] for name, array in data.items()}
        assert sqnr_db(MASK, model, feed) > 50


def test_kept_nodes_keep_their_weights() -> None:
    model, report = converted(NET, exclude=["Mat*"])
    assert model.graph.initializers["v"].dtype == F32
    assert model.graph.initializers["w"].dtype == F16
    assert any(d.code == "kept-by-name" for d in report.skipped)
    with pytest.raises(OptionError, match="no node matches 'nothing'"):
        to_float16(parse(NET), exclude=["nothing"])


def test_a_weight_that_a_kept_and_a_converted_node_share_is_stored_once() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w>
        { t = MatMul(x, w) y = Gemm(t, w) }"""
    model, _ = converted(text, exclude=["Gemm"])
    assert [v.dtype for v in model.graph.initializers.values()] == [F32]
    assert sqnr_db(text, model, {"x": normal(3, 64)}) > 55


def test_weight_as_table_and_as_matrix() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (int64[n] i) => (float[n,9] y) <float[9,16] w>
        { e = Gather(w, i) t = Transpose(w) y = MatMul(e, t) }"""
    model, _ = converted(text)
    assert [v.dtype for v in model.graph.initializers.values()] == [F16]
    assert sqnr_db(text, model, {"i": np.arange(5)}) > 55


def test_odd_types_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    double = """<ir_version: 8, opset_import: ["": 17]>
        g (double[n,4] x) => (double[n,4] y) <double[4,4] w> { y = MatMul(x, w) }"""
    with caplog.at_level(logging.WARNING):
        _, report = converted(double)
    assert not report.changed
    assert "no float32 values" in caplog.text
    quantized = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y)
        <float s = {0.1}, uint8 z = {0}>
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    _, report = converted(quantized)
    assert "quantized already" in report.summary


def test_sequences_unknown_operators_and_empty_tensors() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,4] x) => (float[2,8] y) <float[2,0] none = {}>
        { s = SplitToSequence<axis=1>(x) c = ConcatFromSequence<axis=1>(s) r = Relu(c)
          y = Concat<axis=1>(r, none, x) }"""
    model, report = converted(text)
    assert report.changes.nodes_converted == 2
    assert sqnr_db(text, model, {"x": normal(2, 4)}) > 60


def test_an_output_that_is_a_constant_or_comes_twice() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[3] x) => (float[3] y, float[3] w, float[3] t) <float[3] w>
        { t = Mul(x, w) y = Add(t, w) }"""
    model, _ = converted(text)
    assert [v.name for v in model.graph.outputs] == ["y", "w", "t"]
    assert sqnr_db(text, model, {"x": normal(3)}) > 60


def test_bfloat16_is_for_storage() -> None:
    text = NET.replace("float[8,5] v", "float[8,50] v").replace("float[n,5]", "float[n,50]")
    text = text.replace('"": 17', '"": 11')
    model, report = converted(text, dtype="bfloat16")
    assert report.changes == ToFloat16Changes(constants_converted=2, casts_inserted=2)
    assert 40 < sqnr_db(text, model, {"x": normal(3, 4, 8, 8)}) < 60
    for wrong in ({"mode": "compute"}, {"io": "float16"}):
        with pytest.raises(OptionError, match="bfloat16"):
            to_float16(parse(text), dtype="bfloat16", **wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize("option", [{"io": "half"}, {"dtype": "float8"}, {"mode": "fast"}])
def test_wrong_options(option: dict) -> None:
    with pytest.raises(OptionError):
        to_float16(parse(NET), **option)


def test_external_tensors_stay_lazy(external_model: Path, tmp_path: Path) -> None:
    result = to_float16(load(external_model)).model
    assert isinstance(result.graph.initializers["w"].const_value, ir.LazyTensor)
    path = save(result, tmp_path / "half.onnx")
    assert disk_bytes(path) < 0.62 * disk_bytes(external_model)


def test_residual_net(residual_path: Path) -> None:
    from models.data import calibration_images, test_set

    model = to_float16(load(residual_path), samples=calibration_images(32)).model
    feed = {"image": test_set()[0][:100]}
    want, got = (Session(m).run(feed)["logits"] for m in (load(residual_path), model))
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 60


#: ONNX allows 16 bits where ONNX Runtime has no kernel for them.
SCATTER = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n,8] x) => (float[n,8] y, float[n,8] s)
    <float[8,8] w, int64[1,1] i = {0}, float[1,8] u>
    { y = MatMul(x, w) s = ScatterND<reduction="REDUCTION">(x, i, u) }"""
MEL = """<ir_version: 8, opset_import: ["": 17]>
    g (int64 sizes, float low, float high, float[n,8] x, float[8,8] z)
    => (float[k,l] m, float[n,8] y)
    { m = MelWeightMatrix(sizes, sizes, sizes, low, high) y = MatMul(x, z) }"""


@pytest.mark.parametrize("reduction", ["min", "max"])
@pytest.mark.parametrize("samples", [None, normal(8, 8)])
def test_nodes_without_a_16_bit_kernel_stay_float32(reduction: str, samples: object) -> None:
    net = SCATTER.replace("REDUCTION", reduction)
    model, report = converted(net, samples)
    assert {v.dtype for v in model.graph.initializers.values() if v.name == "w"} == {F16}
    assert sqnr_db(net, model, {"x": normal(3, 8)}) > 50
    assert [s.node for s in report.skipped if s.code == "no-16-bit-kernel"] == ["ScatterND"]


def test_a_model_that_is_not_run_loads_at_least() -> None:
    model, report = converted(MEL)
    Session(model)
    assert any(s.code == "not-runnable" for s in report.skipped)
    assert any(s.code == "no-16-bit-kernel" for s in report.skipped)
    assert report.changes.nodes_converted == 1
