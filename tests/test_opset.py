"""Upgrading the operator set: weights stay where they are, results stay the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.graph import const_tensor
from onnxlite.model import load
from onnxlite.opset import opset_version, upgrade_opset
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.simplify import upgrade_opset as upgrade_verified
from tests.odd_models import odd, parse

OLD = """<ir_version: 4, opset_import: ["": 9]>
    g (float[n,16,4,4] x) => (float[n,8] y) <float[32,16,1,1] w, float[32] b, float[32,8] v>
    { t = Conv(x, w, b) u = Clip<min=0.0, max=6.0>(t) s = ReduceMean<axes=[2,3], keepdims=0>(u)
      y = MatMul(s, v) }"""


def test_converts_and_computes_the_same() -> None:
    model = load(parse(OLD))
    result = upgrade_opset(model, 18)
    assert isinstance(result, ir.Model)
    assert (opset_version(model), opset_version(result)) == (9, 18)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 16, 4, 4)).astype(np.float32)}
    want, got = Session(model).run(feed)["y"], Session(result).run(feed)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_large_weights_are_carried_not_copied() -> None:
    model = load(parse(OLD))
    result = upgrade_opset(model, 18)
    assert isinstance(result, ir.Model)
    before, after = (const_tensor(m.graph.initializers["w"]) for m in (model, result))
    assert before is after
    assert [value.name for value in result.graph.inputs] == ["x"]


def test_new_enough_is_returned_as_it_is() -> None:
    model = load(odd("plain"))
    assert upgrade_opset(model, 13) is model


def test_weights_that_are_inputs_stay_inputs() -> None:
    result = upgrade_opset(load(odd("weights are inputs")), 13)
    assert isinstance(result, ir.Model)
    assert [value.name for value in result.graph.inputs] == ["x", "w", "b"]
    feed = {"x": np.ones((1, 4), np.float32)}
    assert np.array_equal(
        Session(result).run(feed)["y"], Session(load(odd("weights are inputs"))).run(feed)["y"]
    )


def test_what_cannot_be_converted_says_why() -> None:
    model = load(
        parse("""<ir_version: 4, opset_import: ["": 9]>
        g (float[n,1,4,4] x) => (float[n,1,8,8] y) <float[4] s = {1, 1, 2, 2}>
        { y = Upsample<mode="nearest">(x, s) }""")
    )
    result = upgrade_opset(model, 18)
    if isinstance(result, Skipped):
        assert "opset 9" in result.message
        with pytest.raises(UnsupportedError, match="opset 9"):
            upgrade_verified(model, 18)
    else:
        feed = {"x": np.ones((1, 1, 4, 4), np.float32)}
        assert np.array_equal(Session(result).run(feed)["y"], Session(model).run(feed)["y"])


def test_unknown_version() -> None:
    with pytest.raises(OptionError, match="does not exist"):
        upgrade_verified(load(odd("plain")), 999)
