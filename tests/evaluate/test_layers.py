"""Comparison layer by layer: what is matched, what each layer loses, which one breaks it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from models import data
from onnxlite import compare, prune_channels, quantize_static
from onnxlite.analysis.value_matching import Code, match_values
from onnxlite.cli import app
from onnxlite.evaluate import Fidelity, LayerFidelity, layers
from onnxlite.model import load
from onnxlite.quantize.accuracy import equalize
from onnxlite.report import from_json, to_json
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,8,8] x) => (float[n,5] y)
    <float[8,3,3,3] w, float[8] b, float[8,8,3,3] v, float[8] c, float[8,5] u, float[5] d>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)  s = Conv<pads=[1,1,1,1]>(r, v, c)
      q = Add(s, r)  p = Relu(q)  a = GlobalAveragePool(p)  f = Flatten(a)
      y = Gemm(f, u, d) }"""
NAMES = ("first", "relu", "second", "sum", "relu2", "pool", "flat", "head")


def net() -> onnx.ModelProto:
    proto = parse(NET)
    for node, name in zip(proto.graph.node, NAMES, strict=True):
        node.name = name
    return proto


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def quantized(**options: object) -> onnx.ModelProto:
    options = {"rounding": "nearest", "placement": "everything", "threads": 1, **options}
    return quantize_static(net(), images(), **options).model


def by_name(fidelity: Fidelity) -> dict[str, LayerFidelity]:
    return {row.name: row for row in fidelity.layers}


def scaled(proto: onnx.ModelProto, **factors: float) -> onnx.ModelProto:
    """A copy with the named weights times a factor."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in factors:
            array = onnx.numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_layers_of_a_quantized_model(form: str) -> None:
    fidelity = compare(net(), quantized(form=form), samples=images(8), layers=True, threads=1)
    rows = by_name(fidelity)
    assert list(rows)[:4] == ["x", "first", "second", "sum"]
    assert rows["x"].op_type == "input"
    assert rows["first"].op_type == "Conv+Relu"
    assert rows["sum"].op_type == "Add+Relu"
    assert rows["first"].value == "r"
    assert rows["first"].input_db == rows["x"].sqnr_db
    assert rows["sum"].input_db == min(rows["first"].sqnr_db, rows["second"].sqnr_db)
    for row in rows.values():
        assert 25 < row.own_db < 80
    # The last layer's is the model's.
    assert rows["head"].sqnr_db == pytest.approx(fidelity.sqnr_db, abs=0.01)
    # A layer whose input is exact has no other noise than its own.
    assert rows["first"].sqnr_db == pytest.approx(rows["first"].own_db, abs=3)


def test_without_asking_there_are_none() -> None:
    assert compare(net(), quantized(), samples=images(8)).layers == ()


@pytest.mark.parametrize("weight", ["w", "v", "u"])
def test_the_broken_layer_is_found(weight: str) -> None:
    broken = scaled(net(), **{weight: -1.0})
    fidelity = compare(net(), broken, samples=images(8), layers=True)
    worst = max(fidelity.layers, key=lambda row: row.lost)
    assert worst.name == {"w": "first", "v": "second", "u": "head"}[weight]
    others = [row for row in fidelity.layers if row.name != worst.name]
    assert all(row.own_db > 100 for row in others)
    before = [row for row in others if NAMES.index(row.name) < NAMES.index(worst.name)]
    assert all(row.sqnr_db > 100 for row in before)


def test_new_nan_is_told_where_it_appears() -> None:
    broken = scaled(net(), v=float("nan"))
    rows = by_name(compare(net(), broken, samples=images(8), layers=True))
    assert rows["second"].own_db == -math.inf
    assert rows["second"].lost == math.inf
    assert rows["first"].sqnr_db == math.inf


def test_channels_that_are_gone_are_left_out(residual_path: Path) -> None:
    reference = load(residual_path)
    narrow = prune_channels(reference, samples=data.calibration_images(32), remove=0.3).model
    narrow = quantize_static(
        narrow, data.calibration_images(32), rounding="nearest", placement="everything"
    ).model
    fidelity = compare(
        reference, narrow, samples=data.calibration_images(8), layers=True, threads=1
    )
    weighted = [row for row in fidelity.layers if row.op_type.startswith(("Conv", "Gemm"))]
    assert len(weighted) == 16
    assert not [note for note in fidelity.notes if "shape" in note]
    assert sum(row.sqnr_db > 10 for row in weighted) >= 12


def without_sum(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The net without its residual connection."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.graph.node.remove(next(n for n in copy.graph.node if n.name == "sum"))
    next(n for n in copy.graph.node if n.name == "relu2").input[0] = "s"
    return copy


@pytest.mark.parametrize("factor", [4.0, 0.125])
def test_a_rescaled_value_is_no_loss(factor: float) -> None:
    """A factor moved from one layer into the next, as equalization does; the names stay."""
    moved = without_sum(scaled(net(), w=factor, b=factor, v=1 / factor))
    fidelity = compare(without_sum(net()), moved, samples=images(8), layers=True)
    assert fidelity.sqnr_db > 100
    rows = by_name(fidelity)
    assert {"first", "relu", "second"} <= set(rows)
    assert all(row.sqnr_db > 100 and row.own_db > 100 for row in rows.values())
    assert any("a factor per channel" in n and "first, relu" in n for n in fidelity.notes)


def test_a_factor_that_no_reader_takes_back_is_found() -> None:
    wrong = without_sum(scaled(net(), w=4.0, b=4.0))
    rows = by_name(compare(without_sum(net()), wrong, samples=images(8), layers=True))
    assert min(row.own_db for row in rows.values()) < 5


def test_values_with_another_meaning_are_left_out() -> None:
    """Channels in another order, which the next layer knows of; the names stay."""
    moved = without_sum(net())
    for tensor in moved.graph.initializer:
        if tensor.name in ("w", "b", "v"):
            turned = np.flip(onnx.numpy_helper.to_array(tensor), axis=tensor.name == "v")
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned.copy(), tensor.name))
    fidelity = compare(without_sum(net()), moved, samples=images(8), layers=True)
    assert fidelity.sqnr_db > 100
    rows = by_name(fidelity)
    assert not {"first", "relu"} & set(rows)
    assert "second" in rows
    assert rows["second"].own_db > 100
    assert any("another meaning" in note for note in fidelity.notes)


def test_what_is_not_heard_is_not_missed(
    residual_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integers of a branch do not reach as far down as its values, of which a Relu sees nothing."""
    # Whether scaled channels pay on the samples held out is not what is tested here.
    monkeypatch.setattr(equalize, "_MIN_GAIN", -math.inf)
    samples = data.calibration_images(64)
    small = quantize_static(
        load(residual_path), samples, rounding="nearest", placement="everything"
    ).model
    fidelity = compare(load(residual_path), small, samples=data.calibration_images(8), layers=True)
    assert any("a factor per channel" in note for note in fidelity.notes)
    assert min(row.own_db for row in fidelity.layers) > 25


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = quantized()
    whole = compare(net(), candidate, samples=images(8), layers=True, threads=1).layers
    monkeypatch.setattr(layers, "_CHUNK_BYTES", 4096)
    parts = compare(net(), candidate, samples=images(8), layers=True, threads=1).layers
    assert [row.name for row in parts] == [row.name for row in whole]
    for one, two in zip(parts, whole, strict=True):
        assert one.sqnr_db == pytest.approx(two.sqnr_db, abs=0.2)
        assert one.own_db == pytest.approx(two.own_db, abs=0.2)


def test_models_without_a_common_layer() -> None:
    other = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,5] y)
        { shape = Constant<value = int64[2] {-1, 5}>()
          axes = Constant<value = int64[3] {1, 2, 3}>()
          m = ReduceMean<axes=[1, 2, 3]>(x) o = Squeeze(m, axes)
          e = Unsqueeze(o, one) one = Constant<value = int64[1] {1}>()
          k = Constant<value = int64[2] {1, 5}>() y = Expand(e, k) }""")
    nodes = sorted(other.graph.node, key=lambda node: node.op_type != "Constant")
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    fidelity = compare(net(), other, samples=images(4), layers=True)
    assert {row.name for row in fidelity.layers} <= {"head"}


def test_a_batch_norm_that_was_folded_is_compared_behind_it() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,4,8,8] y)
        <float[4,3,1,1] w, float[4] s = {2, 3, 4, 5}, float[4] b, float[4] m,
         float[4] v = {1, 2, 3, 4}>
        { t = Conv(x, w) y = BatchNormalization(t, s, b, m, v) }"""
    from onnxlite import simplify

    proto = parse(text)
    proto.graph.node[0].name, proto.graph.node[1].name = "conv", "norm"
    folded = simplify(proto).model
    assert len(folded.graph.node) == 1
    rows = by_name(compare(proto, folded, samples=images(4), layers=True))
    assert list(rows) == ["norm"]
    assert rows["norm"].own_db > 100


def test_the_report_survives_json() -> None:
    fidelity = compare(net(), quantized(), samples=images(8), layers=True, threads=1)
    assert from_json(to_json("fidelity", fidelity), "fidelity", Fidelity) == fidelity


def test_command(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "a.onnx")
    onnx.save(quantized(), tmp_path / "b.onnx")
    np.save(tmp_path / "x.npy", images(8))
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    shown = CliRunner().invoke(
        app, ["compare", *paths, "--data", str(tmp_path / "x.npy"), "--layers"]
    )
    assert shown.exit_code == 0, shown.output
    assert "Conv+Relu" in shown.output
    assert "most is lost in" in shown.output


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_codes_go_there_and_back(seed: int, signed: bool, channels: bool) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.int8 if signed else np.uint8
    limits = np.iinfo(dtype)
    size = 3 if channels else 1
    code = Code(
        rng.uniform(1e-3, 10, size).astype(np.float32),
        rng.integers(limits.min, limits.max, size, endpoint=True).astype(dtype),
        1 if channels else None,
    )
    integers = rng.integers(limits.min, limits.max, (2, 3, 4), endpoint=True).astype(dtype)
    np.testing.assert_array_equal(code.encode(code.decode(integers)), integers)


def test_values_of_a_model_match_themselves() -> None:
    model = load(net())
    assert isinstance(model, ir.Model)
    rows = match_values(model, load(net()), {"x": "x"})
    assert [row.node for row in rows] == [n for n in NAMES if n != "flat"]
    assert all(row.reference.name == row.candidate.name for row in rows)
