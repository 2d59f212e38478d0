"""The step as a whole: what it promises whatever the rules do."""

from __future__ import annotations

import logging
from importlib import import_module

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxlite.errors import ExecutionError, OptionError, UnsupportedError
from onnxlite.graph import constant
from onnxlite.model import clone, load, to_bytes
from onnxlite.opset import opset_version
from onnxlite.runtime import Session
from onnxlite.simplify import DEFAULT_RULES, simplify, upgrade_opset
from onnxlite.simplify.onnxsim import run_onnxsim
from onnxlite.simplify.options import SimplifyChanges
from onnxlite.simplify.rewrite import Rule, replace_with
from onnxlite.simplify.verify import mismatch, relative_difference, take_reference
from tests.simplify.conftest import build, difference, operators

CONV_BN = (
    "g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] s, float[4] t, float[4] m, float[4] v)"
    " => (float[N,4,6,6] y) { i = Identity(x) c = Conv(i, w)"
    " d = BatchNormalization(c, s, t, m, v) y = Relu(d) }"
)


def wrong_relu(node, context):
    return replace_with(node, ir.node("Abs", node.inputs))


def wrong_sine(node, context):
    return replace_with(node, ir.node("Cos", node.inputs))


def crashing(node, context):
    raise KeyError("a bug in a rule")


def test_a_wrong_rewrite_is_rolled_back_alone():
    model = build(CONV_BN)
    rules = (*DEFAULT_RULES, Rule("wrong", frozenset({"Relu"}), wrong_relu))
    result, report = simplify(clone(model), rules=rules, onnxsim=False)
    assert dict(operators(result)) == {"Conv": 1, "Relu": 1}
    assert report.changes.rewrites["fold-batchnorm"] == 1
    assert "wrong" not in report.changes.rewrites
    (skipped,) = [d for d in report.skipped if d.what == "wrong"]
    assert "rolled back" in skipped.message
    assert "relative difference" in skipped.message
    assert difference(model, result) < 1e-5


def test_a_rule_that_is_always_wrong_is_given_up():
    model = build(
        "g (float[N,4] x) => (float[N,4] y)"
        " { a = Sin(x) b = Sin(a) c = Sin(b) d = Sin(c) y = Sin(d) }"
    )
    rules = (Rule("wrong", frozenset({"Sin"}), wrong_sine),)
    result, report = simplify(clone(model), rules=rules, onnxsim=False)
    assert operators(result) == operators(model)
    assert len([d for d in report.skipped if d.what == "wrong"]) == 3


def test_a_crashing_rule_is_reported(caplog):
    rules = (Rule("buggy", frozenset({"Relu"}), crashing), *DEFAULT_RULES)
    with caplog.at_level(logging.CRITICAL):
        result, report = simplify(build(CONV_BN), rules=rules, onnxsim=False)
    assert dict(operators(result)) == {"Conv": 1, "Relu": 1}
    assert any("KeyError" in d.message for d in report.skipped)


def test_without_verification_nothing_is_rolled_back():
    rules = (Rule("wrong", frozenset({"Relu"}), wrong_relu),)
    result, report = simplify(build(CONV_BN), rules=rules, verify=False, onnxsim=False)
    assert operators(result)["Abs"] == 1
    assert "not verified: verification was turned off" in report.summary


def test_proto_in_proto_out_and_the_input_stays():
    proto = ir.to_proto(build(CONV_BN))
    before = proto.SerializeToString(deterministic=True)
    result, report = simplify(proto, onnxsim=False)
    assert isinstance(result, onnx.ModelProto)
    assert proto.SerializeToString(deterministic=True) == before
    assert [node.op_type for node in result.graph.node] == ["Conv", "Relu"]
    assert report.changed
    assert report.summary == "4 -> 2 nodes"


def test_ir_model_stays_untouched():
    model = build(CONV_BN)
    before = to_bytes(model)
    result = simplify(model, onnxsim=False).model
    assert isinstance(result, ir.Model)
    assert to_bytes(model) == before


def test_nothing_to_do_is_said(caplog):
    model = build("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with caplog.at_level(logging.WARNING, logger="onnxlite"):
        result, report = simplify(model, onnxsim=False)
    assert not report.changed
    assert report.summary.startswith("nothing to simplify")
    assert "changed nothing" in caplog.text
    assert to_bytes(result) == to_bytes(model)


def test_names_and_dynamic_shapes_stay():
    result, _ = simplify(build(CONV_BN), onnxsim=True)
    assert [v.name for v in result.graph.inputs] == ["x"]
    assert [v.name for v in result.graph.outputs] == ["y"]
    assert str(result.graph.inputs[0].shape) == "[N,3,8,8]"
    assert str(result.graph.outputs[0].shape) == "[N,4,6,6]"
    assert dict(operators(result)) == {"Conv": 1, "Relu": 1}


def test_metadata_and_layer_names_stay():
    model = build(CONV_BN)
    model.metadata_props["author"] = "someone"
    model.doc_string = "a net"
    model.graph.node(1).name = "stem"
    result, _ = simplify(model, onnxsim=False)
    assert result.metadata_props["author"] == "someone"
    assert result.doc_string == "a net"
    assert result.graph.node(0).outputs[0].name == "d"


def test_onnxsim_that_takes_too_long_is_skipped():
    reason = run_onnxsim(build(CONV_BN), time_limit=0.01, fold_bytes=1024)
    assert reason == "it did not finish within 0.01 s"


@pytest.mark.parametrize(("operator", "runs"), [("Exp", 0), ("Trilu", 1)])
def test_onnxsim_runs_by_default_where_an_operator_has_no_row(monkeypatch, operator, runs):
    calls = []

    def run_onnxsim(*args, **options):
        calls.append(args)
        return "not here"

    monkeypatch.setattr(import_module("onnxlite.simplify.pipeline"), "run_onnxsim", run_onnxsim)
    text = "g (float[N,4,4,4] x) => (float[N,4,4,4] y) { a = Relu(x) y = Exp(a) }"
    simplify(build(text.replace("Exp", operator)))
    assert len(calls) == runs


def test_onnxsim_that_crashes_is_skipped(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(import_module("onnxlite.simplify.onnxsim"), "_WORKER", worker)
    result, report = simplify(build(CONV_BN), onnxsim=True)
    assert dict(operators(result)) == {"Conv": 1, "Relu": 1}
    assert [d.message for d in report.skipped if d.what == "onnxsim"] == ["it crashed (SIGSEGV)"]


def test_wrong_result_of_onnxsim_is_rolled_back(monkeypatch):
    wrong = build("g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    pipeline = import_module("onnxlite.simplify.pipeline")
    monkeypatch.setattr(pipeline, "run_onnxsim", lambda *a, **k: clone(wrong))
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Exp(a) }")
    result, report = simplify(model, onnxsim=True)
    assert dict(operators(result)) == {"Relu": 1, "Exp": 1}
    assert "rolled back" in report.skipped[0].message


def test_custom_operator_gets_exact_rules_only():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Mystery", ["a"], ["b"], domain="com.example"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    result, report = simplify(load(helper.make_model(graph, opset_imports=opsets)))
    assert dict(operators(result)) == {"Mystery": 1, "Relu": 1}
    assert "not verified" in report.summary


IF_MODEL = """g (float[N,4] x, bool xc) => (float[N,4] y) {
  a = Identity(x)
  b = Relu(a)
  y = If (xc) <
    then_branch = then () => (float[N,4] t) { u = Identity(b) v = Relu(u) t = Identity(v) },
    else_branch = other () => (float[N,4] e) { f = Neg(b) g1 = Neg(f) e = Exp(g1) }
  >
}"""


def test_subgraphs_are_simplified_and_captures_stay():
    model = build(IF_MODEL)
    result, report = simplify(clone(model), onnxsim=False)
    assert dict(operators(result)) == {"Relu": 2, "If": 1, "Exp": 1}
    for condition in (True, False):
        feed = {"x": np.float32([[-1, 0, 1, 2]]), "xc": np.array(condition)}
        assert take_reference(model, samples=[feed]).difference(result) is None
    assert report.changed


LOOP_MODEL = """g (float[4] x) => (float[4] y, float[3,4] z) {
  n = Constant<value = int64 {3}>()
  y, z = Loop (n, , x) <
    body = step (int64 i, bool c, float[4] s) => (bool d, float[4] r, float[4] q)
      { d = Identity(c) k = Identity(s) r = Add(k, x) q = Identity(s) }
  >
}"""


def test_loop_bodies_survive():
    model = build(LOOP_MODEL)
    result, _ = simplify(clone(model), onnxsim=False)
    assert difference(model, result) == 0


def test_outputs_that_are_inputs_or_constants_survive():
    text = (
        "g (float[N,4] x) => (float[N,4] y, float[N,4] z, float[2] k)"
        " { y = Identity(x) z = Identity(x) a = Constant<value = float[2] {1.0, 2.0}>()"
        " k = Add(a, a) }"
    )
    model = build(text)
    result, _ = simplify(clone(model), onnxsim=False)
    assert [v.name for v in result.graph.outputs] == ["y", "z", "k"]
    assert difference(model, result) == 0


def test_simplifying_twice_changes_nothing_more():
    once, _ = simplify(build(CONV_BN), onnxsim=False)
    twice, report = simplify(clone(once), onnxsim=False)
    assert not report.changed
    assert operators(twice) == operators(once)


def test_samples_are_used_for_verification():
    model = build(CONV_BN)
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    reference = take_reference(model, samples=images)
    assert [feed["x"].shape[0] for feed in reference.feeds] == [2, 2]


RANDOM = "g (float[N,4] x) => (float[N,4] y) { a = Identity(x) y = RandomNormalLike(a) }"


def test_random_outputs_are_compared_with_tied_noise():
    model = build(RANDOM)
    result, report = simplify(model, onnxsim=False)
    assert dict(operators(result)) == {"RandomNormalLike": 1}
    assert "not compared" not in report.summary
    wrong = build(RANDOM.replace("Like(a)", "Like<scale=1.01>(a)"))
    assert "relative difference" in (take_reference(model).difference(wrong) or "")


def test_random_outputs_that_cannot_be_tied_are_not_compared():
    _, report = simplify(build(RANDOM, opset=10), onnxsim=False)
    assert "random outputs not compared: y" in report.summary


def test_random_nodes_are_never_merged():
    model = build(
        "g (float[N,4] x) => (float[N,4] y) "
        "{ a = RandomNormalLike(x) b = RandomNormalLike(x) c = Add(a, b) y = Relu(c) }"
    )
    result, _ = simplify(model, onnxsim=False)
    assert operators(result)["RandomNormalLike"] == 2


def test_upgrade_opset():
    model = build("g (float[N,4] x) => (float[N,4] y) { y = Softmax<axis=1>(x) }", opset=11)
    result = upgrade_opset(model, 20)
    assert opset_version(result) == 20
    assert opset_version(model) == 11
    assert difference(model, result) < 1e-6
    with pytest.raises(OptionError, match="opset 999 does not exist"):
        upgrade_opset(model, 999)


def test_upgrade_refuses_what_it_cannot_convert():
    nodes = [helper.make_node("Mystery", ["x"], ["y"])]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)]))
    with pytest.raises(UnsupportedError, match="at opset 11, 20 is needed"):
        upgrade_opset(model, 20)


def test_relative_difference():
    assert relative_difference(np.float32([1, 2]), np.float32([1, 2.2])) == pytest.approx(0.1)
    assert relative_difference(np.float32([1, np.nan]), np.float32([1, 2])) == float("inf")
    assert relative_difference(np.float32([np.inf, 1]), np.float32([np.inf, 1])) == 0
    assert relative_difference(np.float32([np.inf, 1]), np.float32([-np.inf, 1])) == float("inf")
    assert relative_difference(np.zeros(0), np.zeros(0)) == 0


def test_mismatch_of_other_types():
    assert mismatch(np.int64([1, 2]), np.int64([1, 3])) == "different values"
    assert mismatch([np.zeros(2)], [np.zeros(2), np.zeros(2)]) == "a sequence of another length"
    assert mismatch(np.zeros(2), np.zeros(3)) == "float64[3] instead of float64[2]"
    assert mismatch(None, None) is None


def test_constant_weights_shared_by_two_nodes_stay_shared():
    text = (
        "g (float[N,3,8,8] x, float[3,3,1,1] w, float s) => (float[N,3,8,8] y)"
        " { c = Conv(x, w) d = Mul(c, s) y = Conv(d, w) }"
    )
    model = build(text)
    result, _ = simplify(clone(model), onnxsim=False)
    assert {"w", "s"} == set(result.graph.initializers)
    assert difference(model, result) < 1e-5


def test_duplicate_initializers_are_merged():
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Exp(a) }")
    array = np.arange(4, dtype=np.float32)
    for name in ("p", "q"):
        value = constant(array, name)
        model.graph.register_initializer(value)
    relu, exp = model.graph.node(0), model.graph.node(1)
    first = ir.node("Add", [relu.outputs[0], model.graph.initializers["p"]], name="first")
    second = ir.node("Max", [first.outputs[0], model.graph.initializers["q"]], name="second")
    model.graph.insert_before(exp, [first, second])
    exp.replace_input_with(0, second.outputs[0])
    result, report = simplify(clone(model), onnxsim=False)
    assert report.changes == SimplifyChanges(merge_duplicate_initializers=1)
    assert len(result.graph.initializers) == 1


CONSTANT_IF = """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
  c = Constant<value = bool {1}>()
  a = Relu(x)
  y = If (c) <
    then_branch = then () => (float[N,4] t) { u = Exp(a) t = Neg(u) },
    else_branch = other () => (float[N,4] e) { e = Abs(a) }
  >
  d = Not(c)
  z = If (d) <
    then_branch = then2 () => (float[N,4] t) { u = Exp(a) t = Neg(u) },
    else_branch = other2 () => (float[N,4] e) { u = Sin(a) e = Cos(u) }
  >
}"""


def test_branches_that_are_always_taken_are_inlined():
    model = build(CONSTANT_IF)
    result, report = simplify(clone(model), onnxsim=False)
    assert dict(operators(result)) == {"Relu": 1, "Exp": 1, "Neg": 1, "Sin": 1, "Cos": 1}
    assert report.changes.rewrites["inline-if"] == 2
    assert difference(model, result) == 0


SQUEEZE_IF = """g (float[N,5,S] x, float[1,16,5] w, float[1,16,4] r) => (float[1,1,N,4] y) {
  last = Constant<value = int64[1] {-1}>()
  first = Constant<value = int64[1] {0}>()
  one = Constant<value = int64[1] {1}>()
  s = Shape(x)
  d = Gather(s, last)
  e = Equal(d, one)
  q = If (e) <
    then_branch = then () => (float[N,5] t) { t = Squeeze(x, last) },
    else_branch = other () => (float[N,5,S] t2) { t2 = Identity(x) }
  >
  u = Unsqueeze(q, first)
  y, h, c = LSTM<hidden_size=4>(u, w, r)
}"""


def test_an_if_whose_other_branch_cannot_run_is_decided():
    model = build(SQUEEZE_IF)
    result, report = simplify(clone(model), onnxsim=False)
    assert dict(operators(result)) == {"Squeeze": 1, "Unsqueeze": 1, "LSTM": 1}
    assert report.changes.rewrites["decide-if"] == 1
    feed = {"x": np.random.default_rng(0).standard_normal((3, 5, 1)).astype(np.float32)}
    assert take_reference(model, samples=[feed]).difference(result) is None
    # What the original refuses stays refused.
    for candidate in (model, result):
        with pytest.raises(ExecutionError):
            Session(candidate, threads=1).run({"x": np.zeros((3, 5, 2), np.float32)})


def test_an_if_that_both_branches_satisfy_stays():
    text = SQUEEZE_IF.replace("=> (float[1,1,N,4] y)", "=> (float[A,B] z)")
    start = text.index("  u = Unsqueeze")
    model = build(text[:start] + "  z = Relu(q)\n}")
    result, report = simplify(clone(model), onnxsim=False)
    assert operators(result)["If"] == 1
    assert "decide-if" not in report.changes.rewrites
