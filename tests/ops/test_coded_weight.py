"""Weights that nodes decode are recognised, and what is no such weight is not."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxlite.model import load
from onnxlite.ops import coded_weight
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,2] y)'
FORMS = {
    "plain": "<int8[4,2] q = {1,2,3,4,5,6,7,8}, float[1,2] s = {0.1,0.2}>"
    "{ c = Cast<to=1>(q)  w = Mul(c, s)  y = MatMul(x, w) }",
    "zero point, scale first": "<uint8[4,2] q = {1,2,3,4,5,6,7,8}, float[1,2] s = {0.1,0.2},"
    " float z = {4.0}> { c = Cast<to=1>(q)  d = Sub(c, z)  w = Mul(s, d)  y = MatMul(x, w) }",
    "half scale, reshaped": "<uint8[8] q = {1,2,3,4,5,6,7,8}, float16 s = {1},"
    " int64[2] f = {4,2}> { c = Cast<to=1>(q)  t = Cast<to=1>(s)  m = Mul(c, t)"
    " w = Reshape(m, f)  y = MatMul(x, w) }",
}
OTHERS = {
    "float": "<float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul(x, w) }",
    "no integers": "<float[4,2] q = {1,2,3,4,5,6,7,8}, float s = {0.1}>"
    "{ w = Mul(q, s)  y = MatMul(x, w) }",
    "scale read twice": "<int8[4,2] q = {1,2,3,4,5,6,7,8}, float s = {0.1}>"
    "{ c = Cast<to=1>(q)  w = Mul(c, s)  m = MatMul(x, w)  y = Mul(m, s) }",
    "integers read twice": "<int8[4,2] q = {1,2,3,4,5,6,7,8}, float s = {0.1}, int64 a = {0}>"
    "{ c = Cast<to=1>(q)  w = Mul(c, s)  m = MatMul(x, w)  k = Gather(q, a)"
    " f = Cast<to=1>(k)  y = Add(m, f) }",
}


def weight_of(body: str) -> ir.Value:
    node = next(n for n in load(parse(HEAD + body)).graph if n.op_type == "MatMul")
    value = node.inputs[1]
    assert value is not None
    return value


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_recognised(body):
    found = coded_weight(weight_of(body))
    assert found is not None
    assert (found.codes.name, found.scale.name) == ("c", "s")
    assert [value.name for value in found.stored] == ["q"]


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_others(body):
    assert coded_weight(weight_of(body)) is None
