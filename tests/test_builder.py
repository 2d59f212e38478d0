"""Graph building: places, names, constants, and nodes that others replace."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.builder import GraphBuilder, drop_unused_initializers, replace_node
from onnxlite.graph import Names, const_array
from onnxlite.model import load, to_proto
from onnxlite.runtime import Session
from tests.odd_models import odd, parse

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 2] x) => (float[n, 2] y) <float half = {0.5}> {
  [first] a = Mul (x, half)
  [second] y = Relu (a)
}
"""


def two() -> ir.Model:
    return load(parse(TWO))


def order(model: ir.Model) -> list[str]:
    return [node.name or node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("before", ["first", "new", "new_1", "second"]),
        ("after", ["first", "second", "new", "new_1"]),
        ("behind", ["first", "new", "new_1", "second"]),
        ("behind-input", ["new", "new_1", "first", "second"]),
        ("start", ["new", "new_1", "first", "second"]),
        ("end", ["first", "second", "new", "new_1"]),
    ],
)
def test_nodes_go_to_their_place_in_the_order_in_which_they_are_made(place, expected):
    model = two()
    first, second = model.graph
    x = model.graph.inputs[0]
    builder = GraphBuilder(model)
    at = {
        "before": lambda: builder.before(second),
        "after": lambda: builder.after(second),
        "behind": lambda: builder.behind(first.outputs[0]),
        "behind-input": lambda: builder.behind(x),
        "start": builder.start,
        "end": builder.end,
    }[place]()
    at.op("Neg", [at.op("Neg", [x], name="new")], name="new")
    assert order(model) == expected


def test_start_of_an_empty_graph():
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=8)
    at = GraphBuilder(model).start()
    at.op("Neg", [at.constant("one", np.float32(1))], name="minus")
    assert order(model) == ["minus"]


@pytest.mark.parametrize(
    ("naming", "node", "value"),
    [("own", "first_1", "first"), ("output", "first", "first"), ("none", None, "first")],
)
def test_names_of_nodes_follow_the_scheme(naming, node, value):
    model = two()
    made = GraphBuilder(model, naming=naming).make("Neg", [model.graph.inputs[0]], name="first")
    assert (made.name, made.outputs[0].name) == (node, value)


def test_several_outputs_are_numbered():
    model = two()
    at = GraphBuilder(model).end()
    outputs = at.ops("Split", [model.graph.inputs[0]], {"axis": 1}, name="part", outputs=2)
    assert [value.name for value in outputs] == ["part_0", "part_1"]


def test_names_may_be_shared_by_builders():
    model, names = two(), Names(("y", "a", "x", "half"))
    values = [
        GraphBuilder(model, names=names).end().op("Neg", [model.graph.inputs[0]], name="a")
        for _ in range(2)
    ]
    assert [value.name for value in values] == ["a_1", "a_2"]


def test_equal_constants_are_shared_within_a_graph():
    model = load(odd("If"))
    branch = next(graph for graph in model.graphs() if graph is not model.graph)
    builder = GraphBuilder(model)
    one = builder.constant(model.graph, "one", np.float32(1))
    assert builder.constant(model.graph, "other", np.float32(1)) is one
    assert builder.constant(model.graph, "one", np.int32(1)).name == "one_1"
    assert builder.constant(branch, "one", np.float32(1)) is not one
    assert builder.start().initializer("one", np.ones((), np.float32)) is not one


def test_a_constant_may_be_lazy():
    model = two()
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.ones(2, np.float32)), ir.DataType.FLOAT, ir.Shape([2])
    )
    value = GraphBuilder(model).initializer(model.graph, "ones", tensor)
    assert value.name == "ones"
    assert value.shape == ir.Shape([2])
    array = const_array(value)
    assert array is not None
    assert array.tolist() == [1, 1]


def test_a_new_domain_is_imported():
    model = two()
    builder = GraphBuilder(model)
    builder.end().op("Gelu", [model.graph.inputs[0]], name="gelu", domain="com.microsoft")
    assert model.opset_imports["com.microsoft"] == 1


def test_a_replaced_node_hands_its_name_type_and_readers_over():
    model = two()
    _, relu = model.graph
    at = GraphBuilder(model).before(relu)
    replace_node(relu, [at.op("Neg", [relu.inputs[0]], name="minus")])
    assert order(model) == ["first", "minus"]
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [("y", ir.DataType.FLOAT)]
    x = np.array([[2, -4]], np.float32)
    assert Session(model).run({"x": x})["y"].tolist() == [[-1, 2]]


def test_constants_that_only_a_replaced_node_read_go():
    model = two()
    mul, _ = model.graph
    at = GraphBuilder(model).before(mul)
    replace_node(mul, [at.op("Neg", [mul.inputs[0]], name="minus")])
    assert not model.graph.initializers


def test_unused_initializers_go_and_outputs_stay():
    model = two()
    at = GraphBuilder(model).end()
    at.constant("nobody", np.float32(1))
    model.graph.outputs.append(at.constant("given", np.float32(2)))
    drop_unused_initializers(model)
    assert set(model.graph.initializers) == {"half", "given"}
    assert len(to_proto(model).graph.initializer) == 2


def test_names_take_the_same_time_however_many_there_are():
    def seconds(count: int) -> float:
        names, start = Names(), time.process_time()
        for _ in range(count):
            names.fresh("x")
        return time.process_time() - start

    seconds(1_000)
    assert seconds(40_000) < 40 * max(seconds(4_000), 1e-3)
