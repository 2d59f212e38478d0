"""The small questions that passes ask about a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.errors import InvalidModelError, LoadError
from onnxlite.graph import (
    Names,
    add_initializer,
    attribute,
    check_structure,
    const_array,
    const_tensor,
    describe,
    is_op,
    iter_graphs,
    iter_nodes,
    rank,
    scalar,
    sole_consumer,
    static_dim,
    static_shape,
    tensor_array,
    value_names,
)
from onnxlite.model import load, to_bytes
from tests.odd_models import odd, parse


def model_of(name: str) -> ir.Model:
    return load(odd(name))


def values(model: ir.Model) -> dict[str, ir.Value]:
    found = {v.name: v for v in model.graph.inputs} | dict(model.graph.initializers)
    found |= {output.name: output for node in iter_nodes(model) for output in node.outputs}
    return {name: value for name, value in found.items() if name}


def test_iteration_reaches_every_level():
    assert [node.op_type for node in iter_nodes(model_of("If in a Loop"))] == [
        "Loop", "Identity", "Constant", "Equal", "If", "Mul", "Relu",
    ]  # fmt: skip
    assert len(list(iter_graphs(model_of("If in a Loop")))) == 4
    assert len(list(iter_graphs(model_of("function")))) == 2


def test_describe():
    conv, relu = model_of("plain").graph
    assert describe(conv) == "Conv node 't' (nx3x8x8, 4x3x3x3, 4)"
    assert describe(relu) == "Relu node 'y' (?)"
    conv.name = "conv1"
    assert describe(conv).startswith("Conv node 'conv1' (")
    assert describe(ir.node("Constant", [], {"value_int": 1})) == "Constant node '?'"
    assert describe(next(iter(model_of("scalars").graph))) == "Mul node 't' (scalar, scalar)"


def test_is_op():
    conv, relu = model_of("plain").graph
    assert is_op(conv, "Conv")
    assert is_op(relu, "Conv", "Relu")
    assert not is_op(conv, "Relu")
    assert not is_op(None, "Relu")
    assert not is_op(ir.Node("my.company", "Relu", []), "Relu")
    assert is_op(ir.Node("ai.onnx", "Relu", []), "Relu")


class TestConstants:
    def test_initializer_and_constant_node(self):
        found = values(model_of("constant node weights"))
        assert const_array(found["w"]).tolist() == [[1, -2], [3, 0.5]]
        assert const_array(found["b"]).tolist() == [0.5, -0.5]
        found = values(model_of("initializer is output"))
        assert const_array(found["w"]).tolist() == [[1, 2], [3, 4]]

    def test_not_constant(self):
        found = values(model_of("overridable weight"))
        assert const_array(found["w"]) is const_array(found["x"]) is const_array(found["y"]) is None
        assert const_array(None) is const_tensor(None) is scalar(None) is None

    def test_dtypes(self):
        assert const_array(values(model_of("int4 weight"))["w"]).dtype == "int4"
        assert const_array(values(model_of("zero-size tensor"))["none"]).shape == (0, 4)
        assert const_array(values(model_of("scalars"))["two"]).shape == ()

    def test_scalar(self):
        text = """<ir_version: 8, opset_import: ["": 17]> g () => (float[2] y)
            <float f = {2.5}, int64[1] i = {7}, bool[1,1] b = {1}, string s = {"a"},
             float[2] two = {1, 2}, float[0] none> { y = Relu(two) }"""
        found = values(load(parse(text)))
        assert (scalar(found["f"]), scalar(found["i"]), scalar(found["b"])) == (2.5, 7, True)
        assert scalar(found["s"]) is scalar(found["two"]) is scalar(found["none"]) is None

    def test_vanished_data(self, external_model):
        model = load(external_model)
        external_model.with_name("big.onnx.data").unlink()
        with pytest.raises(LoadError, match=r"data of tensor 'w'.*big\.onnx\.data"):
            const_array(model.graph.initializers["w"])
        with pytest.raises(LoadError, match="'v'"):
            tensor_array(model.graph.initializers["v"].const_value)

    def test_add(self):
        model = model_of("plain")
        for array in (np.float32(3.0), np.zeros((0, 2), np.int64), np.arange(6.0).reshape(2, 3).T):
            value = add_initializer(model.graph, f"new{np.ndim(array)}{np.size(array)}", array)
            np.testing.assert_array_equal(const_array(value), array)
            assert const_array(value).shape == np.shape(array) == static_shape(value)
        assert b"new0" in to_bytes(model)


class TestUses:
    def test_sole_consumer(self):
        found = values(model_of("shared weight"))
        assert sole_consumer(found["w"]) is None
        assert sole_consumer(found["t"]).op_type == "Relu"
        assert sole_consumer(found["y"]) is None
        assert sole_consumer(values(model_of("initializer is output"))["w"]) is None

    def test_a_use_in_a_body_counts(self):
        found = values(model_of("If"))
        assert sole_consumer(found["w"]).op_type == "MatMul"
        assert sole_consumer(found["x"]) is None

    def test_one_reader_at_two_ports(self):
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[2] x) => (float[2] y) { t = Relu(x)  y = Mul(t, t) }"""
        assert sole_consumer(values(load(parse(text)))["t"]) is None


def test_shapes():
    found = values(model_of("plain"))
    x, w, t = found["x"], found["w"], found["t"]
    assert (rank(x), rank(w), rank(t), rank(None)) == (4, 4, None, None)
    assert static_shape(w) == (4, 3, 3, 3)
    assert static_shape(x) is static_shape(t) is static_shape(None) is None
    assert [static_dim(x, axis) for axis in (0, 1, -1, 4, -5)] == [None, 3, 8, None, None]
    assert static_dim(t, 0) is static_dim(None, 0) is None


def test_attribute():
    conv, _ = model_of("plain").graph
    assert attribute(conv, "pads") == [1, 1, 1, 1]
    assert attribute(conv, "group", 1) == 1
    assert attribute(conv, "group") is None
    constant = next(iter(model_of("function").functions.values())).graph[0]
    assert attribute(constant, "value_float", "unset") == "unset"


class TestNames:
    def test_fresh(self):
        taken = Names(("a", "a_1"))
        assert [taken.fresh("a"), taken.fresh("a"), taken.fresh("b")] == [
            "a_2", "a_3", "b",
        ]  # fmt: skip
        assert taken == {"a", "a_1", "a_2", "a_3", "b"}

    def test_all_scopes(self):
        assert value_names(model_of("If")) == {"flag", "x", "y", "w", "v", "t", "a", "b"}
        names = value_names(model_of("Loop"))
        assert names >= {"i", "c", "s", "d", "t", "out", "m", "w", "trips", "y", "all"}


class TestStructure:
    def test_two_values_of_one_name(self):
        x = ir.val("x", ir.DataType.FLOAT, [2])
        first, second = ir.node("Relu", [x], name="one"), ir.node("Tanh", [x], name="two")
        first.outputs[0].name = second.outputs[0].name = "y"
        graph = ir.Graph([x], second.outputs, nodes=[first, second], opset_imports={"": 17})
        with pytest.raises(InvalidModelError, match=r"'y' is defined twice.*Tanh node 'two'"):
            check_structure(ir.Model(graph, ir_version=8))

    def test_branches_may_use_the_same_names(self):
        check_structure(model_of("If"))
        assert [n.outputs[0].name for n in iter_nodes(model_of("If"))].count("t") == 2

    def test_function_bodies_are_checked(self):
        proto = odd("function")
        proto.functions[0].node[2].input[1] = "ghost"
        with pytest.raises(InvalidModelError, match="'ghost'"):
            load(proto)

    def test_function_bodies_are_sorted(self):
        proto = odd("function")
        nodes = [proto.functions[0].node[i] for i in (0, 1, 2, 3)]
        nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del proto.functions[0].node[:]
        proto.functions[0].node.extend(nodes[::-1])
        (function,) = load(proto).functions.values()
        types = [node.op_type for node in function]
        assert types.index("MatMul") < types.index("Mul")


def test_a_dimension_that_is_a_formula_is_not_spelled_out() -> None:
    shape = ir.Shape(["batch", 3, "floor(floor(width/2 - 1/2)/2)", None])
    value = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    assert describe(ir.node("Relu", [value], name="act")) == "Relu node 'act' (batchx3x?x?)"
