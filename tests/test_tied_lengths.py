"""Tied lengths: measured copies compare the same frames, and the result has its rounding again."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.fidelity import Reference
from onnxlite.inputs import input_specs
from onnxlite.model import clone, load, to_proto
from onnxlite.ops import value_lengths
from onnxlite.runtime import Session, run_all
from onnxlite.samples import Samples
from onnxlite.search.quality_evaluator import QualityEvaluator
from onnxlite.tied_lengths import agreement, tie_lengths, tie_like, tie_pair
from tests.length_nets import SELECTION, durations, noise
from tests.odd_models import parse

X = noise(24, 12, 8)


def rounded(factor: float = 1.02) -> ir.Model:
    """The net with somewhat longer durations: frames move and the length changes."""
    model = load(durations())
    value = model.graph.initializers["v"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name="v")
    return model


class TestFound:
    def test_the_rounding_behind_a_length(self):
        found = value_lengths(load(durations()))
        assert [node.outputs[0].name for node in found.rounding] == ["c"]
        assert not found.others

    def test_sizes_from_shapes_alone_are_no_lengths(self):
        text = """<ir_version: 8, opset_import: ["": 17]> g (float[b,t,8] x) => (float[b,f] y)
            <float[8,8] w, float half = {0.5}, int64[1] last = {-1}, int64[1] one = {1}>
            { h = MatMul(x, w)  s = Shape(h)  f = Cast<to=1>(s)  m = Mul(f, half)  c = Ceil(m)
              i = Cast<to=7>(c)  e = Expand(h, s)  b = Slice(e, one, last)
              q = Gather(i, one)  n = Concat<axis=0>(q, last)  y = Reshape(b, n) }"""
        assert not value_lengths(load(parse(text)))

    def test_an_embedding_computes_and_a_shape_does_not(self):
        text = """<ir_version: 8, opset_import: ["": 17]> g (int64[t] x) => (float[n] y)
            <float[9] w, int64 i = {0}, int64 zero = {0}, int64 one = {1}>
            { e = Gather(w, x)  s = Shape(x)  t = Gather(s, i)  r = Range(zero, t, one)
              m = ReduceMax<keepdims=0>(e)  k = Round(m)  c = Cast<to=7>(k)
              q = Range(zero, c, one)  y = Cast<to=1>(q) }"""
        found = value_lengths(load(parse(text)))
        assert [node.op_type for node in found.rounding] == ["Round"]

    def test_a_selection_without_rounding(self):
        found = value_lengths(load(parse(
            """<ir_version: 8, opset_import: ["": 17]> g (float[b,8] x) => (int64[2,k] y)
            <float[8,4] w> { s = MatMul(x, w)  y = NonZero(s) }"""
        )))  # fmt: skip
        assert found.others
        assert found.rounding == ()


class TestTied:
    def test_the_copy_computes_the_same(self):
        model = load(durations())
        tied, feeds = tie_lengths(model, X)
        want = run_all(model, list(Samples(X, input_specs(model))))
        got = run_all(tied.model, list(feeds))
        for one, other in zip(want, got, strict=True):
            np.testing.assert_allclose(one["y"], other["y"], rtol=1e-5, atol=1e-5)
            assert list(other) == ["y", "s"]

    def test_restore_gives_the_model_back(self):
        model = load(durations())
        tied, _ = tie_lengths(model, X)
        back = tied.restore(clone(tied.model))
        onnx.checker.check_model(to_proto(back), full_check=True)
        assert [v.name for v in back.graph.inputs] == ["x"]
        assert [v.name for v in back.graph.outputs] == ["y"]
        for one, other in zip(run_all(model, [{"x": X}]), run_all(back, [{"x": X}]), strict=True):
            assert np.array_equal(one["y"], other["y"])

    def test_a_rounded_value_that_is_an_output_stays_one(self):
        model = load(durations())
        model.graph.outputs.append(next(n for n in model.graph if n.op_type == "Ceil").outputs[0])
        tied, _ = tie_lengths(model, X)
        back = tied.restore(clone(tied.model))
        assert [v.name for v in back.graph.outputs] == ["y", "c"]
        assert np.array_equal(run_all(back, [{"x": X}])[0]["y"], run_all(model, [{"x": X}])[0]["y"])

    def test_a_candidate_of_other_durations_is_compared_frame_by_frame(self):
        model, other = load(durations()), rounded()
        shapes = [run_all(each, [{"x": X}])[0]["y"].shape for each in (model, other)]
        assert shapes[0] != shapes[1]
        pair = tie_pair(model, other, X)
        errors = Reference(pair.reference.model, pair.feeds).errors(pair.candidate.model)
        assert errors.outputs["y"].sqnr_db > 100
        assert 20 < errors.outputs["s"].sqnr_db < 50
        assert 0.5 < agreement(other, pair.feeds) < 1

    def test_feeds_are_repeatable(self):
        _, feeds = tie_lengths(load(durations()), list(X[:, None]))
        first, second = list(feeds), list(feeds)
        assert len(first) == 24
        assert all(
            np.array_equal(a["c.tied"], b["c.tied"]) for a, b in zip(first, second, strict=True)
        )

    def test_models_without_lengths_are_left_alone(self):
        plain = load(parse(
            """<ir_version: 8, opset_import: ["": 17]> g (float[b,8] x) => (float[b,4] y)
            <float[8,4] w> { y = MatMul(x, w) }"""
        ))  # fmt: skip
        assert tie_lengths(plain, noise(4, 8)) is None

    def test_a_candidate_without_the_value(self):
        tied, _ = tie_lengths(load(durations()), X)
        other = load(durations())
        next(n for n in other.graph if n.op_type == "Ceil").outputs[0].name = "other"
        assert tie_like(tied, other) is None


STEPS = {
    "static": lambda m: ol.quantize_static(m, X),
    "dynamic": lambda m: ol.quantize_dynamic(m, samples=X),
    "weights": lambda m: ol.quantize_weights(m, samples=X, bits=4),
    "sparse": lambda m: ol.prune_weights(m, samples=X, sparsity=0.5),
    "channels": lambda m: ol.prune_channels(m, samples=X, remove=0.2),
    "half": lambda m: ol.to_float16(m, samples=X),
    "half-io": lambda m: ol.to_float16(m, samples=X, io="float16"),
    "repair": lambda m: ol.repair(m, ol.prune_weights(m, sparsity=0.5), X),
}


@pytest.mark.parametrize("step", STEPS)
def test_steps_keep_the_interface_and_measure(step):
    model = to_proto(load(durations()))
    result, report = STEPS[step](model)
    for kind in ("input", "output"):
        one, other = (getattr(m.graph, kind) for m in (model, result))
        assert [v.name for v in one] == [v.name for v in other]
    onnx.checker.check_model(result)
    Session(load(result))
    fidelity = ol.compare(model, result, samples=X)
    assert fidelity.length_agreement is not None
    assert fidelity.sqnr_db > 3
    assert "lengths" in report.summary or step == "repair"


def test_what_cannot_be_tied_is_compared_where_it_is_common():
    model = parse(SELECTION)
    other = onnx.ModelProto.FromString(model.SerializeToString())
    zero = next(tensor for tensor in other.graph.initializer if tensor.name == "zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.5), "zero"))
    other.graph.node[2].output[0] = other.graph.node[3].input[1] = "another"
    fidelity = ol.compare(model, other, samples=noise(32, 8))
    assert any("what is common" in note for note in fidelity.notes)
    assert fidelity.length_agreement is None
    assert math.isfinite(fidelity.sqnr_db)
    errors = Reference(load(model), [{"x": noise(32, 8)}]).errors(load(other))
    assert math.isfinite(errors.worst_db)


def test_the_search_compares_the_same_frames():
    quality = QualityEvaluator(load(durations()), X, "cosine").evaluate(rounded())
    assert quality.figures["drop"].value < 0.01


def test_sensitivity_compares_the_same_frames():
    found = ol.sensitivity(load(durations()), X, confirm=1, times=False)
    assert found.sqnr_db > 20
