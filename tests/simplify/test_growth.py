"""Folding counts what stays in the model for other readers: the result is never larger."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.analysis.shapes import generated_feed
from onnxlite.errors import OptionError
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.graph import iter_nodes
from onnxlite.inputs import input_specs
from onnxlite.model import load, size_bytes
from onnxlite.samples import Samples
from tests.odd_models import parse
from tests.shared_nets import NETS

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
#: One weight, transposed by two nodes for two products.
TWICE = f"""{HEAD} g (float[n,96] x) => (float[n,96] y) <float[96,96] w>
    {{ v = Transpose<perm=[1,0]>(w) a = MatMul(x, v) r = Relu(a)
      u = Transpose<perm=[1,0]>(w) y = MatMul(r, u) }}"""
#: As above, in the bodies of an If.
BODIES = f"""{HEAD} g (bool flag, float[n,96] x) => (float[n,96] y) <float[96,96] w>
    {{ y = If(flag) <
      then_branch = yes () => (float[n,96] p) {{ v = Transpose<perm=[1,0]>(w) p = MatMul(x, v) }},
      else_branch = no () => (float[n,96] q)
      {{ u = Transpose<perm=[1,0]>(w) q = Gemm(x, u) }}> }}"""
#: One weight in two forms.
FORMS = f"""{HEAD} g (float[n,96] x) => (float[n,96] y) <float[96,96] w>
    {{ v = Transpose<perm=[1,0]>(w) a = MatMul(x, v) u = Neg(w) y = MatMul(a, u) }}"""
#: A weight that an output shows as well.
SHOWN = f"""{HEAD} g (float[n,96] x) => (float[n,96] y, float[96,96] w) <float[96,96] w>
    {{ v = Transpose<perm=[1,0]>(w) y = MatMul(x, v) }}"""


def behind_casts(layers: int = 8, width: int = 48) -> onnx.ModelProto:
    """Layers whose float16 weights are cast to float32, each smaller than any limit."""
    body = " ".join(
        f"c{i} = Cast<to=1>(w{i}) a{i} = MatMul({'x' if not i else f'r{i - 1}'}, c{i})"
        f" r{i} = Relu(a{i})"
        for i in range(layers)
    )
    weights = ", ".join(f"float16[{width},{width}] w{i}" for i in range(layers))
    return parse(
        f"{HEAD} g (float[n,{width}] x) => (float[n,{width}] y) <{weights}>"
        f" {{ k = Identity(x) {body} y = Identity(r{layers - 1}) }}"
    )


def operators(model: Any) -> list[str]:
    return [node.op_type for node in iter_nodes(model)]


def simplified(proto: onnx.ModelProto, **options: Any) -> ir.Model:
    """Simplify, and check size and numbers."""
    model = load(proto)
    result = ol.simplify(model, **{"onnxsim": False, **options}).model
    assert isinstance(result, ir.Model)
    feeds = Samples([generated_feed(model)], input_specs(model))
    assert worst_sqnr_db(model, result, feeds) > 80
    if not options.get("max_growth"):
        assert size_bytes(result) <= size_bytes(model)
    return result


@pytest.mark.parametrize("text", [TWICE, BODIES])
def test_equal_nodes_share_one_result(text: str) -> None:
    result = simplified(parse(text))
    assert "Transpose" not in operators(result)
    assert size_bytes(result) == 96 * 96 * 4


@pytest.mark.parametrize("text", [FORMS, SHOWN])
def test_a_constant_that_others_read_is_not_stored_twice(text: str) -> None:
    result = simplified(parse(text))
    assert "Transpose" in operators(result)


@pytest.mark.parametrize("net", NETS)
def test_no_net_with_shared_weights_grows(net: str) -> None:
    simplified(NETS[net]()[0])


@pytest.mark.parametrize("onnxsim", [False, True])
def test_float16_weights_behind_casts_stay_float16(onnxsim: bool) -> None:
    if onnxsim:
        pytest.importorskip("onnxsim")
    result = simplified(behind_casts(), onnxsim=onnxsim)
    assert operators(result).count("Cast") == 8
    assert operators(result).count("Identity") == 0


def test_growth_on_request() -> None:
    proto = behind_casts()
    assert "Cast" not in operators(simplified(proto, max_growth=1.0))
    tied = NETS["tied embedding"]()[0]
    assert "Transpose" not in operators(simplified(tied, max_growth=1.0))
    with pytest.raises(OptionError, match="max_growth"):
        ol.simplify(proto, max_growth=-0.5)


def test_what_is_saved_elsewhere_pays_for_a_folding() -> None:
    text = f"""{HEAD} g (float[n,32] x) => (float[n,32] y)
        <float[64,64] unread, float[32,32] w, float[32,32] copy, float[1] small>
        {{ k = MatMul(x, w) m = MatMul(k, copy) s = Constant<value_ints=[32]>()
          e = Expand(small, s) y = Mul(m, e) }}"""
    proto = parse(text)
    (w,) = (t for t in proto.graph.initializer if t.name == "w")
    (copy,) = (t for t in proto.graph.initializer if t.name == "copy")
    copy.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w), "copy"))
    assert "Expand" not in operators(simplified(proto))


def test_the_reason_names_what_stays() -> None:
    skipped = ol.simplify(load(parse(FORMS)), onnxsim=False).report.skipped
    assert {each.code for each in skipped if each.what == "fold-constants"} == {"inputs-stay"}
