"""A model that the checker refuses ends a function with its fault, a valid one with the error."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest

import onnxlite as ol
from onnxlite.errors import InvalidModelError
from onnxlite.model import load
from onnxlite.validity import explained
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8] x) => (float[n,8] y) <float[8,8] w> { y = MatMul(x, w) }"""
X = np.zeros((16, 8), np.float32)


def broken() -> onnx.ModelProto:
    """A product of one matrix."""
    proto = parse(NET)
    del proto.graph.node[0].input[0]
    return proto


@pytest.mark.parametrize("form", ["proto", "path", "loaded"])
def test_every_form_of_a_model_is_checked(form, tmp_path):
    def in_form(proto):
        if form == "path":
            onnx.save(proto, tmp_path / "m.onnx")
            return tmp_path / "m.onnx"
        return proto if form == "proto" else load(proto)

    error = ValueError("a fault of the function")
    assert explained(error, {"model": in_form(parse(NET))}, "simplify") is error
    assert "input" in str(explained(error, {"model": in_form(broken())}, "simplify"))


def test_an_error_of_a_valid_model_stays():
    error = ValueError("a fault of the function")
    assert explained(error, {"model": parse(NET), "samples": X}, "simplify") is error
    assert explained(OSError("disk"), {"model": broken()}, "simplify").args == ("disk",)
    found = explained(error, {"reference": parse(NET), "candidate": broken()}, "repair")
    assert isinstance(found, InvalidModelError)
    assert "repair cannot handle the model" in str(found)


@pytest.mark.parametrize(
    "step",
    [
        lambda model: ol.quantize_auto(model, X),
        lambda model: ol.quantize_static(model, X, form="qoperator"),
        lambda model: ol.prune_channels(model, remove=0.5),
        lambda model: ol.quantize_weights(model, bits=8),
        lambda model: ol.inspect(model),
    ],
)
@pytest.mark.parametrize("fault", ["an input less", "an attribute of another type"])
def test_steps_on_broken_models(step, fault):
    proto = broken()
    if fault != "an input less":
        proto = parse(NET.replace("y = MatMul(x, w)", "y = Flatten<axis = 1>(x)"))
        proto.graph.node[0].attribute[0].type = onnx.AttributeProto.FLOATS
    with contextlib.suppress(ol.OnnxliteError):
        step(proto)


def test_an_error_is_not_its_own_cause(monkeypatch):
    monkeypatch.setattr("onnxlite.apply.judged_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        ol.quantize_dynamic(parse(NET))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["undefined", "unknown", "in a branch"])
def test_an_attribute_without_a_known_type_is_named(kind):
    proto = parse(NET.replace("MatMul(x, w)", "Gemm<alpha = 2.0>(x, w)"))
    node = proto.graph.node[0]
    node.name = "product"
    attribute = node.attribute[0]
    if kind == "unknown":
        raw = attribute.SerializeToString().replace(b"\xa0\x01\x01", b"\xa0\x01\x63")
        attribute.ParseFromString(raw)
    else:
        attribute.type = onnx.AttributeProto.UNDEFINED
    if kind == "in a branch":
        branch = onnx.GraphProto(name="g", node=[node], output=proto.graph.output)
        made = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        proto.graph.input.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
        del proto.graph.node[:]
        proto.graph.node.append(made)
    with pytest.raises(InvalidModelError, match=r"attribute 'alpha' of node 'product' \(Gemm\)"):
        ol.simplify(proto)
