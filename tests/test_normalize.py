"""One form for what exporters write in many, with the same results."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.graph import iter_nodes
from onnxlite.model import load, to_bytes
from onnxlite.normalize import normalize
from onnxlite.runtime import run_all
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd, parse


def names(model):
    return [node.name for node in iter_nodes(model)]


@pytest.mark.parametrize("name", ODD)
def test_form(name):
    model = load(odd(name))
    assert normalize(model) == ()
    inputs = set(model.graph.inputs)
    assert not inputs & set(model.graph.initializers.values())
    assert not model.functions
    assert model.ir_version >= 4
    assert len(set(names(model))) == len(names(model))
    for node in iter_nodes(model):
        assert node.op_type != "Constant"
        assert all(output.name is not None for output in node.outputs)


@pytest.mark.parametrize("name", ODD)
def test_idempotent(name):
    model = load(odd(name))
    normalize(model)
    once = to_bytes(model)
    normalize(model)
    assert to_bytes(model) == once


@pytest.mark.parametrize("name", [n for n in ODD if n not in NOT_RUNNABLE])
def test_computes_the_same(name):
    model, data = load(odd(name)), feeds(name)
    expected = run_all(model, data)
    normalize(model)
    for want, got in zip(expected, run_all(model, data), strict=True):
        assert want.keys() == got.keys()
        for key in want:
            np.testing.assert_array_equal(got[key], want[key])


def test_names_make_a_model_loadable():
    model = load(odd("duplicate node names"))
    normalize(model)
    assert names(model) == ["same", "same_1"]
    assert run_all(model, feeds("duplicate node names"))[0]["y"].shape == (2, 2)


def test_given_names_stay():
    model = load(odd("strange names"))
    normalize(model)
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["a/b:0", "é ü"]


def test_constant_that_is_an_output_stays():
    text = """<ir_version: 8, opset_import: ["": 17]>
        g () => (float[2] y) { y = Constant<value_floats = [1.0, 2.0]>() }"""
    model = load(parse(text))
    normalize(model)
    assert run_all(model, [{}])[0]["y"].tolist() == [1, 2]


def test_recursive_function_is_skipped():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x) => (float[2] y) { y = local.f(x) }
        <opset_import: ["": 17, "local": 1], domain: "local"> f (a) => (b) { b = local.f(a) }"""
    model = load(parse(text))
    before = [node.op_type for node in model.graph]
    (skipped,) = normalize(model)
    assert (skipped.what, skipped.node) == ("inline-functions", "")
    assert "f" in skipped.message
    assert [node.op_type for node in model.graph] == before


def test_nested_functions():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x) => (float[2] y) { t = local.twice(x)  y = local.twice(t) }
        <opset_import: ["": 17, "local": 1], domain: "local">
        twice (a) => (b) { t = local.once(a)  b = local.once(t) }
        <opset_import: ["": 17], domain: "local">
        once (a) => (b) { t = Constant<value_float = 3.0>()  b = Mul(a, t) }"""
    model = load(parse(text))
    assert normalize(model) == ()
    assert [node.op_type for node in model.graph] == ["Mul"] * 4
    assert run_all(model, [{"x": np.float32([1, 2])}])[0]["y"].tolist() == [81, 162]
