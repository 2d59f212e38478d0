"""Scales that are inputs of the model against the same scales written into it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate import Range
from onnxlite.model import clone, load
from onnxlite.quantize.accuracy.fake_quant import fake_quantized
from onnxlite.quantize.core.activation_bits import OPSET as OPSET_16
from onnxlite.quantize.core.activation_bits import assign_activation_bits
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.prepare import OPSET, prepare
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import target_named
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,4,4] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,1,1] v, float[4] c>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t)
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) [second] y = Conv(p, v, c) }"""


@pytest.mark.parametrize("int16", [(), ("second",)])
def test_one_session_tries_several_ranges(int16: tuple[str, ...]) -> None:
    row = target_named("generic" if int16 else "cpu").offering("qdq", int16)
    model, _ = prepare(load(parse(NET)), OPSET_16 if int16 else OPSET)
    assert not isinstance(model, Skipped)
    placement = place(model, row)
    plan = QuantPlan(model, placement, row, assign_activation_bits(placement, int16)[0])
    names = placement.value_names
    choices = [dict.fromkeys(names, Range(-2.0 * s, 3.0 * s)) for s in (1.0, 0.4)]
    twin, scales = fake_quantized(plan, choices)
    session = Session(twin, qdq="float")
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    results = []
    for ranges, given in zip(choices, scales, strict=True):
        copied = plan.on(clone(model))
        QDQEmitter(copied).activations(activation_params(copied, ranges))
        want = Session(copied.model, qdq="float").run(feed)["y"]
        results.append(session.run(feed | given)["y"])
        np.testing.assert_allclose(results[-1], want, rtol=1e-5, atol=1e-5)
    assert np.abs(results[0] - results[1]).max() > 0.01
