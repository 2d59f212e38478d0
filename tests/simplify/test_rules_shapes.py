"""Nodes that do nothing, shape arithmetic, slices and transposes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.simplify import Context, Replacement, simplify
from onnxlite.simplify.options import SimplifyChanges
from onnxlite.simplify.rules.shapes import cancel_squeeze
from tests.simplify.conftest import build


def ints(name: str, *numbers: int) -> str:
    return f"{name} = Constant<value = int64[{len(numbers)}] {{{', '.join(map(str, numbers))}}}>()"


ROWS = "g (float[N,8] x) => (float[N,8] y)"
IMAGE = "g (float[N,4,6,6] x) => (float[N,4,6,6] y)"

FIRES = [
    ("remove-identity", f"{ROWS} {{ a = Identity(x) y = Relu(a) }}", {"Relu": 1}),
    ("remove-identity", f"{ROWS} {{ a = Relu(x) y = Identity(a) }}", {"Relu": 1}),
    ("remove-dropout", f"{ROWS} {{ a = Relu(x) y = Dropout(a) }}", {"Relu": 1}),
    ("remove-cast", f"{ROWS} {{ a = Relu(x) y = Cast<to=1>(a) }}", {"Relu": 1}),
    ("merge-casts", "g (float16[N,8] x) => (double[N,8] y)"
     " { a = Cast<to=1>(x) y = Cast<to=11>(a) }", {"Cast": 1}),
    ("remove-neutral", f"{ROWS} {{ z = Constant<value = float[1] {{0.0}}>() a = Relu(x)"
     " y = Add(z, a) }", {"Relu": 1}),
    ("remove-single-input", f"{ROWS} {{ a = Relu(x) y = Concat<axis=0>(a) }}", {"Relu": 1}),
    ("remove-clip", f"{ROWS} {{ a = Abs(x) y = Clip(a) }}", {"Abs": 1}),
    ("remove-pad", f"{ROWS} {{ {ints('p', 0, 0, 0, 0)} a = Relu(x) y = Pad(a, p) }}", {"Relu": 1}),
    ("remove-slice", f"{ROWS} {{ {ints('s', 0)} {ints('e', 9223372036854775807)} {ints('k', 1)}"
     " a = Relu(x) y = Slice(a, s, e, k) }", {"Relu": 1}),
    ("remove-expand", f"{ROWS} {{ {ints('s', 1, 8)} a = Relu(x) y = Expand(a, s) }}", {"Relu": 1}),
    ("remove-expand", f"{ROWS} {{ s = Shape(x) a = Relu(x) y = Expand(a, s) }}", {"Relu": 1}),
    ("remove-tile", f"{ROWS} {{ {ints('r', 1, 1)} a = Relu(x) y = Tile(a, r) }}", {"Relu": 1}),
    ("remove-split", f"{ROWS} {{ a = Relu(x) y = Split<axis=1, num_outputs=1>(a) }}", {"Relu": 1}),
    ("remove-repeated", f"{ROWS} {{ a = Abs(x) y = Abs(a) }}", {"Abs": 1}),
    ("remove-inverse", f"{ROWS} {{ a = Relu(x) b = Neg(a) y = Neg(b) }}", {"Relu": 1}),
    ("remove-flatten", f"{ROWS} {{ a = Relu(x) y = Flatten(a) }}", {"Relu": 1}),
    ("remove-reshape", f"{ROWS} {{ {ints('s', -1, 8)} a = Relu(x) y = Reshape(a, s) }}",
     {"Relu": 1}),
    ("remove-where", f"{ROWS} {{ c = Constant<value = bool[1] {{1}}>() a = Relu(x) b = Neg(x)"
     " y = Where(c, a, b) }", {"Relu": 1}),
    ("remove-reduction", "g (float[N,1] x) => (float[N,1] y)"
     f" {{ {ints('k', 1)} a = Relu(x) y = ReduceSum(a, k) }}", {"Relu": 1}),
    ("merge-common-subexpressions", f"{ROWS} {{ a = Exp(x) b = Exp(x) y = Add(a, b) }}",
     {"Exp": 1, "Add": 1}),
    ("merge-concats", "g (float[N,2] x, float[N,3] x1, float[N,4] x2) => (float[N,9] y)"
     " { a = Concat<axis=-1>(x, x1) y = Concat<axis=1>(a, x2) }", {"Concat": 1}),
    ("fold-constants", f"{ROWS} {{ a = Constant<value = float[1] {{2.0}}>() b = Exp(a)"
     " y = Mul(x, b) }", {"Mul": 1}),
    ("remove-dead-nodes", f"{ROWS} {{ a = Exp(x) b = Log(a) y = Relu(x) }}", {"Relu": 1}),
    ("constant-reshape", "g (float[N,4,2,2] x) => (float[N,16] y) { s = Shape(x)"
     f" i = Constant<value = int64 {{0}}>() {ints('k', 0)} {ints('m', -1)} b = Gather(s, i)"
     " c = Unsqueeze(b, k) t = Concat<axis=0>(c, m) y = Reshape(x, t) }", {"Flatten": 1}),
    ("constant-reshape", "g (float[N,T,8] x) => (float[N,T,2,4] y) { s = Shape(x)"
     f" {ints('b', 0)} {ints('e', 2)} {ints('m', 2, 4)} h = Slice(s, b, e)"
     " t = Concat<axis=0>(h, m) y = Reshape(x, t) }", {"Reshape": 1}),
    ("merge-reshapes", f"{ROWS} {{ {ints('s', -1, 2, 4)} {ints('t', -1, 8)} a = Reshape(x, s)"
     " b = Reshape(a, t) y = Relu(b) }", {"Relu": 1}),
    ("merge-reshapes", "g (float[N,4,1,1] x) => (float[N,2,2] y)"
     f" {{ {ints('k', 2, 3)} {ints('s', 0, 2, 2)} a = Squeeze(x, k) y = Reshape(a, s) }}",
     {"Reshape": 1}),
    ("expand-before-broadcast", "g (float[N,8] x, float[1,8] w) => (float[N,8] y)"
     " { s = Shape(x) a = Expand(w, s) y = Add(x, a) }", {"Add": 1}),
    ("slice-squeeze-to-gather", "g (float[3,N,4] x) => (float[N,4] y)"
     f" {{ {ints('s', 1)} {ints('e', 2)} {ints('k', 0)} a = Slice(x, s, e, k)"
     " y = Squeeze(a, k) }", {"Gather": 1}),
    ("split-squeeze-to-gather", "g (float[2,N,4] x) => (float[N,4] y) {"
     f" {ints('k', 0)} a, b = Split<num_outputs=2>(x) c = Squeeze(a, k) d = Squeeze(b, k)"
     " y = Sub(c, d) }", {"Gather": 2, "Sub": 1}),
    ("slices-to-split", "g (float[N,8] x) => (float[N,4] y) {"
     f" {ints('s', 0)} {ints('m', 4)} {ints('e', 8)} {ints('k', 1)} a = Slice(x, s, m, k)"
     " b = Slice(x, m, e, k) y = Sub(a, b) }", {"Split": 1, "Sub": 1}),
    ("merge-slices", "g (float[6,8] x) => (float[2,4] y) {"
     f" {ints('s', 1)} {ints('e', 3)} {ints('k', 0)} {ints('t', 0)} {ints('f', 4)} {ints('l', 1)}"
     " a = Slice(x, s, e, k) y = Slice(a, t, f, l) }", {"Slice": 1}),
    ("merge-transposes", "g (float[N,4,6] x) => (float[6,4,N] y)"
     " { a = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[1,0,2]>(a) }", {"Transpose": 1}),
    ("merge-transposes", f"{IMAGE} {{ a = Transpose<perm=[0,2,3,1]>(x)"
     " b = Transpose<perm=[0,3,1,2]>(a) y = Relu(b) }", {"Relu": 1}),
    ("transpose-to-reshape", "g (float[N,1,6] x) => (float[N,6,1] y)"
     " { y = Transpose<perm=[0,2,1]>(x) }", {"Reshape": 1}),
    ("sink-transpose", "g (float[N,4,6,5] x, float[5,1,4] w) => (float[N,4,6,5] y) {"
     " a = Transpose<perm=[0,3,2,1]>(x) b = Relu(a) c = Mul(b, w) d = Softmax<axis=-1>(c)"
     " y = Transpose<perm=[0,3,2,1]>(d) }", {"Relu": 1, "Mul": 1, "Softmax": 1}),
    ("sink-transpose", "g (float[N,4,6,5] x, float[N,4,6,5] x1) => (float[N,8,6,5] y) {"
     " a = Transpose<perm=[0,2,3,1]>(x) b = Transpose<perm=[0,2,3,1]>(x1)"
     " c = Concat<axis=3>(a, b) y = Transpose<perm=[0,3,1,2]>(c) }", {"Concat": 1}),
    ("sink-transpose", "g (float[N,4,6,5] x) => (float[N,4] y) {"
     f" {ints('k', 1, 2)} a = Transpose<perm=[0,2,3,1]>(x) y = ReduceMax<keepdims=0>(a, k) }}",
     {"ReduceMax": 1}),
    ("sink-transpose", "g (float[N,4,6,5] x) => (float[N,4,7,5] y) {"
     f" {ints('p', 0, 0, 0, 0, 0, 1, 0, 0)} a = Transpose<perm=[0,2,3,1]>(x) c = Pad(a, p)"
     " y = Transpose<perm=[0,3,1,2]>(c) }".replace("0, 1, 0, 0)", "0, 1, 0, 0)"),
     {"Pad": 1}),
]  # fmt: skip

DECLINES = [
    ("remove-dropout", f"{ROWS} {{ a, m = Dropout(x) b = Cast<to=1>(m) y = Mul(a, b) }}"),
    ("remove-neutral", "g (float[1,8] x) => (float[4,8] y)"
     " { z = Constant<value = float[4,1] {0.0, 0.0, 0.0, 0.0}>() y = Add(x, z) }"),
    ("merge-casts", "g (float[N,8] x) => (float[N,8] y) { a = Cast<to=6>(x) y = Cast<to=1>(a) }"),
    ("remove-slice", "g (float[N,8] x) => (float[N,7] y)"
     f" {{ {ints('s', 0)} {ints('e', 7)} {ints('k', 1)} y = Slice(x, s, e, k) }}"),
    ("remove-expand", "g (float[1,8] x) => (float[3,8] y)"
     f" {{ {ints('s', 3, 8)} y = Expand(x, s) }}"),
    ("merge-concats", "g (float[N,2] x, float[N,3] x1) => (float[N,8] y, float[N,5] z)"
     " { z = Concat<axis=1>(x, x1) y = Concat<axis=1>(z, x1) }"),
    ("slices-to-split", "g (float[N,8] x) => (float[N,3] y) {"
     f" {ints('s', 0)} {ints('m', 3)} {ints('n', 5)} {ints('e', 8)} {ints('k', 1)}"
     " a = Slice(x, s, m, k) b = Slice(x, n, e, k) y = Sub(a, b) }"),
    ("sink-transpose", "g (float[4,4] x, float[4,4] x1) => (float[4,4] y)"
     " { a = Transpose<perm=[1,0]>(x) y = Add(a, x1) }"),
    ("transpose-to-reshape", "g (float[N,2,6] x) => (float[N,6,2] y)"
     " { y = Transpose<perm=[0,2,1]>(x) }"),
    ("remove-reshape", "g (float[N,8] x) => (float[M,4] y)"
     f" {{ {ints('s', -1, 4)} y = Reshape(x, s) }}"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), FIRES)
def test_rule_fires(simplified, rule, text, expected):
    result = simplified(text)
    assert dict(result.operators) == expected
    assert rule in dict(result.report.changes.counts())
    assert result.difference < 1e-5


@pytest.mark.parametrize(("rule", "text"), DECLINES)
def test_rule_declines(simplified, rule, text):
    result = simplified(text)
    assert rule not in dict(result.report.changes.counts())
    assert result.difference < 1e-5


def test_folding_does_not_blow_up_the_file(simplified):
    result = simplified(
        "g (float[N,8] x) => (float[N,1000,1000] y) {"
        f" {ints('s', 1000, 1000)} a = ConstantOfShape(s) {ints('k', 1)} {ints('l', 2)}"
        " b = Unsqueeze(x, k) i = Constant<value = int64[1] {0}>() c = Gather<axis=2>(b, i)"
        " y = Add(a, c) }"
    )
    assert result.operators["ConstantOfShape"] == 1
    assert any("larger than its inputs" in d.message for d in result.report.skipped)


def test_quantized_weights_stay_quantized():
    weight = numpy_helper.from_array(np.ones((8, 8), np.int8), "w")
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [weight, scale],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    result, report = simplify(load(proto), onnxsim=False)
    assert not report.changed
    assert const_array(result.graph.node(0).inputs[0]).dtype == np.int8


def test_squeeze_cancels_unsqueeze_without_shapes():
    model = build(f"{ROWS} {{ {ints('k', 1)} a = Unsqueeze(x, k) b = Squeeze(a, k) y = Relu(b) }}")
    normalize(model)
    context = Context(opset=21, precedes=lambda node: False, growth=0)
    squeeze = next(node for node in model.graph if node.op_type == "Squeeze")
    result = cancel_squeeze.apply(squeeze, context)
    assert isinstance(result, Replacement)
    assert result.outputs == ((squeeze.outputs[0], model.graph.inputs[0]),)


def test_large_weights_on_disk_are_folded_on_demand(tmp_path):
    weight = np.random.default_rng(0).standard_normal((768, 512)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 768])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="data", size_threshold=1024)
    result, report = simplify(load(path), onnxsim=False)
    assert report.changes == SimplifyChanges(rewrites={"fold-constants": 1})
    (folded,) = result.graph.initializers.values()
    assert isinstance(folded.const_value, ir.LazyTensor)
    assert np.array_equal(folded.const_value.numpy(), weight.T)
