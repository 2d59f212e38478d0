"""Every step keeps the declared interface, and returns what `onnx.checker` accepts."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.apply import accepted
from onnxlite.errors import UnsupportedError
from onnxlite.inputs import Feed, input_specs
from onnxlite.model import load, to_proto
from onnxlite.runtime import run_all
from onnxlite.samples import generate
from onnxlite.simplify.options import SimplifyReport
from onnxlite.validity import checker_fault, interface_difference, invalidity, restore_interface
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]>\n'
#: Every public step that makes a model, with samples `x`.
STEPS = {
    "simplify": lambda m, x: ol.simplify(m, samples=x, onnxsim=False),
    "prune-channels": lambda m, x: ol.prune_channels(m, samples=x, remove=0.3, round_to=1),
    "prune-channels-l2": lambda m, _: ol.prune_channels(m, remove=0.3, importance="l2"),
    "prune-weights": lambda m, _: ol.prune_weights(m, sparsity=0.5),
    "sparse-storage": lambda m, _: ol.sparse_storage(m),
    "quantize-static": lambda m, x: ol.quantize_static(m, x, placement="everything"),
    "quantize-dynamic": lambda m, x: ol.quantize_dynamic(m, samples=x, kernel="integer"),
    "quantize-weights": lambda m, _: ol.quantize_weights(m, bits=8, first_last_bits="same"),
    "float16": lambda m, x: ol.to_float16(m, samples=x),
    "float16-io": lambda m, x: ol.to_float16(m, samples=x, io="float16"),
    "bfloat16": lambda m, x: ol.to_float16(m, samples=x, dtype="bfloat16"),
    "repair": lambda m, x: ol.repair(m, ol.prune_weights(m, sparsity=0.5), x),
    "tune": lambda m, x: ol.tune(m, ol.prune_weights(m, sparsity=0.5), x, steps=1, threads=1),
}
#: Steps that take seconds, or repeat what another one does to calls.
SLOW = {"float16-io", "bfloat16", "tune"}
LAYER = "<float[4,24] w, float[24,4] v>"
#: Graphs with unusual declarations; `t` is what two layers make of `x`.
INTERFACES = {
    "empty axis": f"""g (float[n,4] x, float[2,0,4] past) => (float[n,4] t, float[2,0,4] now)
        {LAYER} {{ h = MatMul(x, w)  r = Relu(h)  t = MatMul(r, v)  now = Neg(past) }}""",
    "unnamed axes": f"g (float[?,4] x) => (float[?,?] t) {LAYER} {{ BODY }}",
    "undeclared output": f"g (float[n,4] x) => (float[] t) {LAYER} {{ BODY }}",
    "another name for an axis": f"g (float[n,4] x) => (float[rows,cols] t) {LAYER} {{ BODY }}",
    "unused input": f"g (float[n,4] x, int64[n,k] spare) => (float[n,4] t) {LAYER} {{ BODY }}",
    "input as output": f"g (float[n,4] x, bool[m] b) => (bool[m] b, float[n,4] t) {LAYER}"
    "{ BODY }",
    "constant output": f"""g (float[n,4] x) => (float[n,4] t, float[k] c)
        {LAYER} {{ BODY  one = Constant<value = float[2] {{1, 2}}>()  c = Neg(one) }}""",
    "sequence": f"""g (float[n,4] x) => (seq(float[n,4]) s, float[n,4] t)
        {LAYER} {{ BODY  s = SequenceConstruct(t, x) }}""",
    "reshaped": """g (float[n,4] x) => (float[?,2,2] t) <float[4,24] w, float[24,4] v,
        int64[3] to = {-1, 2, 2}>
        { h = MatMul(x, w)  r = Relu(h)  u = MatMul(r, v)  t = Reshape(u, to) }""",
}


def interface(values, *, types: bool) -> list[str]:
    """Declared shapes as text; without element types for a step that changes them."""
    found = []
    for value in values:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(value)
        if not copy.type.tensor_type.HasField("shape"):
            continue  # it may become known
        if not types and copy.type.tensor_type.elem_type in (1, 10):
            copy.type.tensor_type.elem_type = 1
        found.append(str(copy))
    return found


def check(step: str, model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
    """The result of a step, whose declarations are those of the model, and which is valid."""
    result, report = STEPS[step](model, feeds)
    assert not report.summary.startswith("the result was not valid"), report
    for kind in ("input", "output"):
        before, after = (getattr(m.graph, kind) for m in (model, result))
        types = step != "float16-io"
        assert len(after) == len(before)
        old, new = interface(before, types=types), interface(after, types=types)
        assert [text for text in new if text in old] == old
    if checker_fault(load(model)) is None:
        onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", INTERFACES)
def test_declared_interface_stays(step, name):
    text = INTERFACES[name].replace("BODY", "h = MatMul(x, w)  r = Relu(h)  t = MatMul(r, v)")
    model = parse(HEAD + text)
    next(v for v in model.graph.output if v.name == "t").doc_string = "what is wanted"
    feeds = generate(input_specs(load(model)), count=4, default_dim=2)
    if name == "empty axis":
        feeds = [feed | {"past": np.zeros((2, 0, 4), np.float32)} for feed in feeds]
    if (step, name) == ("tune", "sequence"):
        with pytest.raises(UnsupportedError, match="SequenceConstruct"):
            check(step, model, feeds)
        return
    check(step, model, feeds)


@pytest.mark.parametrize("size", [-1, 0])
def test_an_axis_of_no_size_stays_as_declared(size):
    model = parse(HEAD + f"g (float[n,4] x) => (float[n,4] t) {LAYER} {{ t = MatMul(x, w) }}")
    model.graph.node[0].output[0] = "h"
    model.graph.node.add(op_type="MatMul", input=["h", "v"], output=["t"])
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = size
    result = ol.to_float16(model).model
    for before, after in ((model.graph.input, result.graph.input),
                          (model.graph.output, result.graph.output)):  # fmt: skip
        assert interface(after, types=True) == interface(before, types=True)


TWO = """
<opset_import: ["": 17], domain: "local"> Two (a) => (b, c) { b = Relu(a)  c = Neg(a) }"""
NESTED = (
    TWO
    + """
<opset_import: ["": 17, "local": 1], domain: "local"> Out (a) => (b) { b, "" = local.Two(a) }"""
)
#: Calls of functions that leave outputs or inputs out, which ONNX Runtime runs.
CALLS = {
    "last output": ('z, "" = local.Two(t)', TWO),
    "first output": ('"", z = local.Two(t)', TWO),
    "all outputs": ('z = Relu(t)  "", "" = local.Two(t)', TWO),
    "in a function": ("z = local.Out(t)", NESTED),
    "in a body": (
        """yes = Constant<value = bool {1}>()  z = If(yes) <
        then_branch = one () => (float[n,4] p) { p, "" = local.Two(t) },
        else_branch = two () => (float[n,4] q) { q = Relu(t) }>""",
        TWO,
    ),
    "input": (
        'z = local.Cut(t, "")',
        '\n<opset_import: ["": 17], domain: "local"> Cut (a, low) => (c) { c = Clip(a, low) }',
    ),
}


@pytest.mark.parametrize("step", [s for s in STEPS if s not in SLOW])
@pytest.mark.parametrize("call", CALLS)
def test_call_that_leaves_values_out(step, call):
    text, functions = CALLS[call]
    model = parse(
        HEAD + "g (float[n,4] x) => (float[n,4] z) <float[4,24] w, float[24,4] v>"
        f" {{ h = MatMul(x, w)  r = Relu(h)  t = MatMul(r, v)  {text} }}" + functions
    )
    feeds = generate(input_specs(load(model)), count=4, default_dim=2)
    result = check(step, model, feeds)
    before, after = (run_all(load(m), feeds, threads=1) for m in (model, result))
    if step == "simplify":
        for one, two in zip(before, after, strict=True):
            np.testing.assert_allclose(one["z"], two["z"], rtol=1e-5, atol=1e-6)


def test_function_that_gives_one_value_twice_is_not_returned_under_one_name():
    model = parse(
        HEAD + "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y, z = local.Same(x) }"
        '\n<opset_import: ["": 17], domain: "local"> Same (a) => (b, b) { b = Neg(a) }'
    )
    result, report = ol.simplify(model, onnxsim=False)
    assert not report.changed
    assert "the outputs are" in report.summary
    assert [value.name for value in result.graph.output] == ["y", "z"]


def chain() -> ir.Model:
    model = load(parse(HEAD + "g (float[n,4] x) => (float[n,4] y) { t = Relu(x)  y = Neg(t) }"))
    model.graph[0].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return model


def drop_output(model: ir.Model) -> None:
    model.graph[0].outputs[0].name = ""


def wrong_operator(model: ir.Model) -> None:
    model.graph[0].op_type = "Cast"  # without its attribute


def other_name(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def other_input(model: ir.Model) -> None:
    model.graph.inputs[0].name = "data"


@pytest.mark.parametrize("damage", [drop_output, wrong_operator, other_name, other_input])
def test_invalid_result_of_any_step_is_not_returned(damage):
    source, made = chain(), chain()
    damage(made)
    report = SimplifyReport(changed=True, summary="2 -> 2 nodes")
    model, told = accepted(ol.Simplify(), source, made, report)
    assert model is source
    assert not told.changed
    assert "not valid" in told.summary


def test_what_the_source_has_wrong_as_well_is_allowed():
    source, made = chain(), chain()
    for model in (source, made):
        wrong_operator(model)
    assert invalidity(source, made) is None
    assert invalidity(chain(), made) is not None


def test_wrong_inner_shapes_are_dropped():
    source, made = chain(), chain()
    made.graph[0].outputs[0].shape = ir.Shape([2, 7, 7])
    assert "differ in rank" in (checker_fault(made) or "")
    assert invalidity(source, made) is None
    assert made.graph[0].outputs[0].shape is None
    onnx.checker.check_model(to_proto(made), full_check=True)


def test_weights_of_bodies_and_of_the_graph_are_not_read(monkeypatch):
    model = load(
        parse(
            HEAD
            + """g (bool f, float[n,64] x) => (float[n,64] y) <float[64,64] w>
            { t = MatMul(x, w)  y = If(f) <
              then_branch = one () => (float[n,64] p) <float[64,64] w2> { p = MatMul(t, w2) },
              else_branch = two () => (float[n,64] q) <float[64,64] w2> { q = MatMul(t, w2) }> }"""
        )
    )
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            value.const_value = ir.LazyTensor(
                lambda: pytest.fail("read"), dtype=tensor.dtype, shape=tensor.shape
            )
    assert checker_fault(model) is None
    assert all(value.is_initializer() for value in (model.graph.initializers["w"],))


def test_interface_is_restored_from_the_original():
    source, made = chain(), chain()
    made.graph.inputs[0].shape = ir.Shape([None, 4])
    made.graph.outputs[0].shape = ir.Shape([2, 4])
    made.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    assert "has shape" in (interface_difference(source, made) or "")
    restore_interface(source, made, types=False)
    assert str(made.graph.outputs[0].shape) == str(source.graph.outputs[0].shape)
    assert "became" in (interface_difference(source, made) or "")
    assert interface_difference(source, made, any_width=True) is None
    restore_interface(source, made)
    assert interface_difference(source, made) is None
