"""Outputs that are little more than rounding errors, as of a detector that finds nothing."""

from __future__ import annotations

from onnxlite.model import load
from onnxlite.simplify import simplify
from onnxlite.simplify.verify import take_reference
from tests.odd_models import parse
from tests.simplify.conftest import build, operators


def test_differences_as_small_as_rounding_are_no_fault() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) {{ k = Constant<value_float={0}>() y = Mul(x, k) }}"
    model = build(text.format(1.0))
    reference = take_reference(model)
    assert reference.rounding == {"y": 0.0}
    assert "relative difference" in (reference.difference(build(text.format(1.01))) or "")
    noisy = take_reference(model)
    noisy.__dict__["rounding"] = {"y": 0.005}
    assert noisy.difference(build(text.format(1.01))) is None
    assert "allowed 0.02" in (noisy.difference(build(text.format(1.05))) or "")
    noisy.__dict__["rounding"] = {"y": 10.0}
    assert "allowed 0.1" in (noisy.difference(build(text.format(1.2))) or "")


def test_a_detector_that_finds_nothing_is_simplified_as_any_other() -> None:
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y)
            <float[4,3,3,3] w>
            { t = Conv<pads=[1,1,1,1]>(x, w) k = Constant<value_float=-14.0>() n = Add(t, k)
              y = Sigmoid(n) }"""
        )
    )
    made, report = simplify(model, onnxsim=False)
    assert not [row for row in report.skipped if row.code == "rolled-back"]
    assert operators(made)["Add"] == 0
