"""Low-bit weights: packing, decoding in ONNX Runtime, what is packed and what is not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite import QuantizeWeightsReport, quantize_weights
from onnxlite.errors import OptionError
from onnxlite.graph import iter_nodes
from onnxlite.model import disk_bytes, load
from onnxlite.packing import BITS, Bits, pack, packed_bytes, unpack, weight_type
from onnxlite.quantize.weight_only.codes import blocks_of, closest_divisor, coding, nearest_levels
from onnxlite.quantize.weight_only.options import FirstLastBits
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import NOT_RUNNABLE, ODD, parse


def packed(text: str, **options: object) -> tuple[ir.Model, QuantizeWeightsReport]:
    proto = parse(text)
    before = proto.SerializeToString()
    result, report = quantize_weights(proto, **options)
    assert proto.SerializeToString() == before
    if _valid(proto):
        onnx.checker.check_model(result, full_check=True)
    return load(result), report


def _valid(proto: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def sqnr_db(text: str, model: ir.Model, *shape: int) -> float:
    original = Session(load(parse(text)))
    rng = np.random.default_rng(1)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name in original.input_names}
    want, got = original.run(feed), Session(model).run(feed)
    noise = min(((want[k] - got[k]) ** 2).sum() / (want[k] ** 2).sum() for k in want)
    return float(-10 * np.log10(noise))


def executed(model: ir.Model, tmp_path: Path) -> Counter[str]:
    path = tmp_path / "optimized.onnx"
    Session(model, threads=1, optimized_path=path)
    return Counter(node.op_type for node in iter_nodes(load(path)))


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_unpack_inverts_pack(bits: Bits, data: st.DataObject) -> None:
    kind = weight_type(bits)
    codes = data.draw(st.lists(st.integers(0, kind.levels - 1), min_size=1, max_size=70))
    array = np.array(codes, np.uint8)
    parts = pack(kind, array)
    assert sum(part.nbytes for part in parts) == packed_bytes(kind, array.size)
    assert np.array_equal(unpack(kind, parts, array.size), array)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("free_zero", [False, True])
def test_rounding_is_within_half_a_step(bits: Bits, free_zero: bool) -> None:
    kind = weight_type(bits)
    view = np.random.default_rng(0).uniform(-1, 3, (5, 4, 40)).astype(np.float32)
    found = coding(kind, *nearest_levels(kind, view, (2,), free_zero=free_zero))
    decoded = found.decode(found.encode(view))
    step = np.abs(found.scale.astype(np.float32))
    if kind.levels > 3:
        limit = step * (0.51 if found.zero is not None else 1.01)
        assert (np.abs(decoded - view) <= limit + 1e-6).all()
    assert len(np.unique(found.encode(view))) <= kind.levels


def test_ternary_scale_has_the_least_error() -> None:
    kind = weight_type("ternary")
    view = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)
    scale, _ = nearest_levels(kind, view, (1,), free_zero=False)

    def error(scale: np.ndarray) -> np.ndarray:
        nearest = np.clip(np.rint(view / scale), -1, 1) * scale
        return ((view - nearest) ** 2).sum(axis=1)

    for factor in np.linspace(0.5, 1.5, 101):
        assert (error(scale) <= error(scale * factor) + 1e-5).all()


def test_blocks_follow_what_an_operator_adds_up() -> None:
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,12,8,8] x, float[n,64] v)
            => (float[n,8,6,6] y, float[n,96] z, float[n,16,16,16] t)
            <float[8,12,3,3] w, float[64,96] m, float[12,16,2,2] u>
            { y = Conv(x, w)  z = MatMul(v, m)  t = ConvTranspose<strides=[2,2]>(x, u) }"""
        )
    )
    conv, matmul, transposed = (((node, 1),) for node in model.graph)
    assert blocks_of(conv, (8, 12, 3, 3), 32).view == (8, 3, 36)
    assert blocks_of(conv, (8, 12, 3, 3), 0).scale_shape == (8, 1, 1, 1)
    assert blocks_of(matmul, (64, 96), 32).scale_shape == (2, 1, 96)
    assert blocks_of(transposed, (12, 16, 2, 2), 32).scale_shape == (1, 16, 1, 1)
    assert closest_divisor(97, 32) == 97
    assert closest_divisor(1, 32) == 1


CONV = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,16,8,8] x) => (float[n,7,6,6] y)
    <float[33,16,3,3] w, float[33] b, float[7,33,1,1] v>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) u = Conv<pads=[0,0,0,0]>(r, v)
      y = AveragePool<kernel_shape=[3,3]>(u) }"""


@pytest.mark.parametrize(
    ("bits", "least"), list(zip(BITS, (40, 28, 22, 17, 11, 4, 3, 0), strict=True))
)
def test_every_width_decodes_to_plain_convolutions(
    bits: Bits, least: float, tmp_path: Path
) -> None:
    model, report = packed(CONV, bits=bits, first_last_bits="same")
    assert report.changed
    ran = executed(model, tmp_path)
    assert not {"BitShift", "Cast", "Mod", "Reshape", "Mul"} & set(ran)
    assert sqnr_db(CONV, model, 4, 16, 8, 8) > least
    kept = {name: v for name, v in model.graph.initializers.items() if v.dtype == ir.DataType.FLOAT}
    assert all(value.const_value.size < 1000 for value in kept.values())


@pytest.mark.parametrize("bits", BITS)
def test_files_shrink_to_the_width(bits: Bits, residual_path: Path, tmp_path: Path) -> None:
    model = quantize_weights(residual_path, bits=bits, first_last_bits="same", block_size=0).model
    path = save(model, tmp_path / "small.onnx")
    share = disk_bytes(path) / disk_bytes(residual_path)
    assert share < weight_type(bits).stored_bits / 32 + 0.02


def test_latency_is_that_of_float_weights(residual_path: Path, tmp_path: Path) -> None:
    model = quantize_weights(residual_path, bits="ternary").model
    ours, theirs = executed(model, tmp_path), executed(load(residual_path), tmp_path)
    assert ours == theirs


@pytest.mark.parametrize("name", [name for name in ODD if name not in NOT_RUNNABLE])
def test_odd_models(name: str) -> None:
    model, report = packed(ODD[name], bits=4)
    assert report.summary
    Session(model)


SHARED = {
    "shared by two products": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w>
        { t = MatMul(x, w)  r = Relu(t)  y = Gemm<transB=1>(r, w) }""",
    "embedding and product": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w, int64[1] i = {3}>
        { t = MatMul(x, w)  e = Gather(w, i)  y = Add(t, e) }""",
    "embedding tied to the head": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w, int64[1] i = {3}>
        { e = Gather(w, i)  a = Add(x, e) v = Transpose<perm=[1,0]>(w)  y = MatMul(a, v) }""",
    "in a branch": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <bool flag = {1}, float[64,64] w>
        { s = ReduceSum<keepdims=0>(x) zero = Constant<value_float=0.0>() c = Greater(s, zero)
          y = If(c) <
            then_branch = yes () => (float[n,64] a) <float[64,64] v> { a = MatMul(x, v) },
            else_branch = no () => (float[n,64] b) { b = MatMul(x, w) }> }""",
    "old opset": """<ir_version: 4, opset_import: ["": 9]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w> { y = MatMul(x, w) }""",
    "recurrent": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2,64] x) => (float[n,1,2,64] y)
        <float[1,256,64] w, float[1,256,64] r> { y = LSTM<hidden_size=64>(x, w, r) }""",
}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("bits", [8, "ternary"])
def test_a_weight_has_one_packed_copy(case: str, bits: Bits, tmp_path: Path) -> None:
    model, report = packed(SHARED[case], bits=bits, first_last_bits="same", block_size=0)
    assert report.changes.weights_packed == (2 if case in ("in a branch", "recurrent") else 1)
    shape = (3, 2, 64) if case == "recurrent" else (4, 64)
    assert sqnr_db(SHARED[case], model, *shape) > (35 if bits == 8 else 1)
    floats = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 256
    ]
    assert not floats
    ran = executed(model, tmp_path)
    assert not {"Cast", "Mul", "Mod"} & set(ran)


def test_double_weights() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (double[n,64] x) => (double[n,64] y) <double[64,64] w> { y = MatMul(x, w) }"""
    proto = parse(text)
    model = quantize_weights(proto, bits=8).model
    feed = {"x": np.random.default_rng(0).standard_normal((4, 64))}
    want, got = (Session(load(m)).run(feed)["y"] for m in (proto, model))
    assert got.dtype == np.float64
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 35


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{ y = MatMul(x, w) }", "would have"),
        ("{ r = Relu(x) y = Identity(r) }", "no float weight"),
    ],
)
def test_what_does_not_pay_is_left(text: str, reason: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y) '
    weight = "<float[4,4] w>" if "w" in text else ""
    _, report = packed(head + weight + text)
    assert not report.changed
    assert reason in report.summary + " ".join(d.message for d in report.skipped)


def test_empty_scalar_and_broken_weights_are_left() -> None:
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y, float[n,0] z)
        <float[64,64] w, float[64,64] v, float[64,0] none, float s = {2.0}>
        { a = MatMul(x, w) b = MatMul(a, v) y = Mul(b, s) z = MatMul(x, none) }"""
    )
    values = np.full((64, 64), np.nan, np.float32)
    (broken,) = [tensor for tensor in proto.graph.initializer if tensor.name == "v"]
    broken.CopyFrom(onnx.numpy_helper.from_array(values, "v"))
    result, report = quantize_weights(proto, bits=8)
    model = load(result)
    reasons = " ".join(d.message for d in report.skipped)
    assert "NaN" in reasons
    assert "empty" in reasons
    assert model.graph.initializers["v"].dtype == ir.DataType.FLOAT
    assert model.graph.initializers["s"].dtype == ir.DataType.FLOAT


def test_packed_twice_says_so() -> None:
    model = quantize_weights(load(parse(CONV)), bits=4).model
    again, report = quantize_weights(model, bits=4)
    assert not report.changed
    assert len(again.graph) == len(model.graph)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [("same", ["2", "2"]), ("auto", ["8", "8"]), ("float", []), (6, ["6", "6"])],
)
def test_first_and_last_bits(ends: FirstLastBits, expected: list[str]) -> None:
    _, report = packed(CONV, bits=2, first_last_bits=ends, block_size=0)
    assert [row.bits for row in report.layers] == expected


def test_patterns() -> None:
    _, report = packed(CONV, include=["w"])
    assert [row.weight for row in report.layers] == ["w"]
    with pytest.raises(OptionError, match="nothing"):
        packed(CONV, exclude=["nothing"])
    with pytest.raises(OptionError, match="bits"):
        packed(CONV, bits=7)


def test_external_data_are_packed_when_saved(external_model: Path, tmp_path: Path) -> None:
    model = quantize_weights(external_model, bits=4, block_size=0, first_last_bits="same").model
    lazy = [
        v for v in model.graph.initializers.values() if isinstance(v.const_value, ir.LazyTensor)
    ]
    assert lazy
    path = save(model, tmp_path / "small.onnx", external_data="always")
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    want, got = (Session(p).run({"x": x})["y"] for p in (external_model, path))
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 14
