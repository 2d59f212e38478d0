"""Shapes: what the engines tell for every input, and what holds for one feed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.analysis.shapes import (
    concrete_shapes,
    generated_feed,
    infer_shapes,
    probe_shapes,
)
from onnxlite.errors import ExecutionError
from onnxlite.graph import iter_nodes
from onnxlite.model import load
from onnxlite.runtime import Session
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd, parse


def shape(model: ir.Model, name: str) -> list[int | str | None] | None:
    values = [v for node in iter_nodes(model) for v in node.outputs] + list(model.graph.inputs)
    value = next(v for v in values if v.name == name)
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


CONV = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,8,8] x) => (float[n,k] y) <float[4,3,3,3] w, int64[1] rest = {-1}>
    { c = Conv(x, w)  s = Shape<start = 0, end = 1>(c)  t = Concat<axis = 0>(s, rest)
      y = Reshape(c, t) }"""


@pytest.mark.parametrize(("axis", "dims"), [(-1, "2,8"), (1, "2,8"), (0, "8,2")])
def test_parts_of_computed_sizes_stay_open(axis: int, dims: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 21]>
        g (float[{dims}] x, int64[2] sizes) => (float[m,k] y)
        {{ same = Identity(sizes)  a, b = Split<axis={axis}>(x, same)
          c = Relu(a)  d = Exp(b)  y = Concat<axis={axis}>(c, d) }}"""
    model = load(parse(text))
    infer_shapes(model)
    parts = [shape(model, name) for name in "abcd"]
    assert all(part is not None and not isinstance(part[axis], int) for part in parts)
    assert all(part is not None and part[1 - axis % 2] == 2 for part in parts)


def test_dynamic_batch_stays_dynamic() -> None:
    model = load(parse(CONV))
    assert infer_shapes(model) == ()
    assert shape(model, "c") == ["n", 4, 6, 6]


def test_a_declared_output_gets_numbers_but_no_new_names() -> None:
    text = CONV.replace("float[n,k] y", "float[?,?] y")
    model = load(parse(text))
    infer_shapes(model)
    assert shape(model, "y") == [None, 144]


def test_symbolic_inference_can_be_left_out() -> None:
    model = load(parse(CONV.replace("float[n,k] y", "float[?,?] y")))
    infer_shapes(model, symbolic=False)
    assert shape(model, "y") == [None, None]


@pytest.mark.parametrize("dim", ["?", "-1", "0"])
def test_unusable_dimensions_become_unknown(dim: str) -> None:
    proto = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }""")
    first = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if dim == "?":
        first.dim_param = "?"
    else:
        first.dim_value = int(dim)
    model = load(proto)
    infer_shapes(model)
    assert shape(model, "x") == [None, 4]


def test_refresh_forgets_stale_shapes() -> None:
    model = load(
        parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,6] w, float[6,2] v>
        { t = MatMul(x, w)  r = Relu(t)  y = MatMul(r, v) }""")
    )
    infer_shapes(model)
    assert shape(model, "r") == ["n", 6]
    for name, size in (("w", (4, 3)), ("v", (3, 2))):
        model.graph.initializers[name].const_value = ir.tensor(np.ones(size, np.float32))
    infer_shapes(model, refresh=True)
    assert shape(model, "t") == ["n", 3]
    assert shape(model, "r") == ["n", 3]
    assert shape(model, "y") == ["n", 2]


def test_weights_are_never_read(tmp_path: Path, external_model: Path) -> None:
    model = load(external_model)
    (external_model.parent / "big.onnx.data").unlink()
    assert infer_shapes(model) == ()
    assert shape(model, "t") == ["n", 32]


def test_values_of_branches_are_inferred() -> None:
    model = load(odd("If"))
    infer_shapes(model, refresh=True)
    inner = {v.name: v for node in iter_nodes(model) for v in node.outputs}
    assert [str(dim) for dim in inner["a"].shape or ()] == ["n", "4"]


def test_unknown_operator_is_reported_and_its_rank_taken_from_a_run() -> None:
    proto = odd("contrib op")
    model = load(proto)
    (skipped,) = infer_shapes(model)
    assert skipped.node == "t"
    assert "rank" in skipped.message
    assert infer_shapes(model, feeds=feeds("contrib op")) == ()
    assert shape(model, "t") == [None, None]


def test_missing_opset_import_does_not_stop_inference() -> None:
    proto = odd("custom op")
    del proto.opset_import[1]
    model = load(proto)
    infer_shapes(model)
    assert shape(model, "t") == ["n", 2]


def test_probe_sees_the_branch_that_ran() -> None:
    model = load(odd("If"))
    feed = {"flag": np.array(True), "x": np.ones((5, 4), np.float32)}
    shapes = {value.name: dims for value, dims in probe_shapes(model, feed).items()}
    assert shapes["y"] == (5, 4)
    assert shapes["a"] == (5, 4)
    assert "b" not in shapes


def test_concrete_shapes_do_not_touch_the_model() -> None:
    proto = parse(CONV)
    model = load(proto)
    before = ir.to_proto(model).SerializeToString()
    shape_of = concrete_shapes(model, batch=3)
    assert ir.to_proto(model).SerializeToString() == before
    by_name = {v.name: shape_of(v) for node in model.graph for v in node.outputs}
    assert by_name["c"] == (3, 4, 6, 6)
    assert by_name["y"] == (3, 144)
    assert shape_of(None) is None


def test_concrete_shapes_follow_the_feed() -> None:
    model = load(odd("unnamed dims"))
    conv = model.graph.node(0)
    assert concrete_shapes(model)(conv.outputs[0])[1:] == (4, 1, 1)  # all axes of size 3
    feed = {"x": np.zeros((1, 3, 10, 7), np.float32)}
    assert concrete_shapes(model, [feed])(conv.outputs[0]) == (1, 4, 8, 5)


def test_concrete_shapes_of_data_dependent_values() -> None:
    model = load(
        parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (int64[2,k] y) { y = NonZero(x) }""")
    )
    output = model.graph.node(0).outputs[0]
    feed = {"x": np.array([[1, 0, 0, 2]], np.float32)}
    assert concrete_shapes(model, [feed])(output) == (2, 2)


@pytest.mark.parametrize("name", sorted(set(ODD) - NOT_RUNNABLE))
def test_every_inferred_shape_fits_a_real_run(name: str) -> None:
    model = load(odd(name))
    infer_shapes(model, refresh=True)
    feed = feeds(name)[0]
    seen = probe_shapes(model, feed)
    for value, dims in seen.items():
        if value.shape is not None:
            assert len(value.shape) == len(dims)
            for have, want in zip(value.shape, dims, strict=True):
                assert not isinstance(have, int) or have == want, value
    shape_of = concrete_shapes(model, [feed])
    assert {value: shape_of(value) for value in seen} == seen


@pytest.mark.parametrize("name", sorted(set(ODD) - NOT_RUNNABLE))
def test_inference_leaves_a_model_that_runs_as_before(name: str) -> None:
    model = load(odd(name))
    infer_shapes(model, refresh=True)
    feed = feeds(name)[0]
    want, have = Session(load(odd(name))).run(feed), Session(model).run(feed)
    for output, array in want.items():
        np.testing.assert_array_equal(have[output], array)


@pytest.mark.parametrize("name", sorted(NOT_RUNNABLE))
def test_inference_takes_models_that_do_not_run(name: str) -> None:
    model = load(odd(name))
    infer_shapes(model, refresh=True)
    assert shape(model, "t") == ["n", 2]


#: Takes multiples of 11 values only, which no guess has.
UNGUESSABLE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[a,b] x) => (float[c,4] y) <int64[2] s = {-1, 11}, float[11,4] w>
    { r = Reshape(x, s) y = MatMul(r, w) }"""


def test_generated_feed_asks_for_samples_when_nothing_is_accepted() -> None:
    with pytest.raises(ExecutionError, match="give samples"):
        generated_feed(load(parse(UNGUESSABLE)))
