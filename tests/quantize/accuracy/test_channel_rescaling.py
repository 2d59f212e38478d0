"""Channels that may be multiplied: the model's outputs stay, on every kind of graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.model import clone, load
from onnxlite.normalize import normalize
from onnxlite.quantize.accuracy.channel_rescaling import find_scalable_channels, rescale
from onnxlite.runtime import Session
from tests.odd_models import parse

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
IMAGE = f"{HEADER} g (float[n,3,8,8] x) => "
RNG = np.random.default_rng(0)

#: Graphs with the number of channels that may be multiplied.
NETS = {
    "Relu between convolutions": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,3,3] w, float[6] b, float[5,6,1,1] v>"
        "{ t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) y = Conv(r, v) }",
        6,
    ),
    "depthwise": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[6] b, float[6,1,3,3] d, float[6] e,"
        "float[5,6,1,1] v> { t = Conv(x, w, b) r = Relu(t)"
        " s = Conv<pads=[1,1,1,1], group=6>(r, d, e) q = Relu(s) y = Conv(q, v) }",
        6,
    ),
    "residual": (
        IMAGE + "(float[n,5] y) <float[6,3,1,1] w, float[6] b, float[6,6,3,3] v, float[6] c,"
        "float[6,5] u> { t = Conv(x, w, b) r = Relu(t) s = Conv<pads=[1,1,1,1]>(r, v, c)"
        " a = Add(s, r) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
        " m = GlobalAveragePool(p) f = Flatten(m) y = Gemm(f, u) }",
        6,
    ),
    "a sum of three": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[6,6,1,1] v, float[6,6,1,1] u,"
        "float[5,6,1,1] z> { t = Conv(x, w) r = Relu(t) s = Conv(r, v) q = Conv(r, u)"
        " a = Sum(s, r, q) y = Conv(a, z) }",
        6,
    ),
    "concat": (
        IMAGE + "(float[n,5,8,8] y) <float[4,3,1,1] w, float[2,3,1,1] z, float[5,6,1,1] v>"
        "{ t = Conv(x, w) s = Conv(x, z) c = Concat<axis=1>(t, s) r = Relu(c) y = Conv(r, v) }",
        6,
    ),
    "flattened features": (
        IMAGE + "(float[n,5] y) <float[2,3,1,1] w, float[128,5] u>"
        "{ t = Conv(x, w) f = Flatten(t) y = Gemm(f, u) }",
        2,
    ),
    "a bias added behind a product": (
        f"{HEADER} g (float[n,7] x) => (float[n,5] y) <float[7,6] w, float[6] b, float[6,5] u>"
        "{ t = MatMul(x, w) s = Add(t, b) r = Relu(s) y = MatMul(r, u) }",
        6,
    ),
    "Clip at a bound": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[5,6,1,1] v>"
        "{ lo = Constant<value_float=0.0>() hi = Constant<value_float=1000.0>()"
        " t = Conv(x, w) r = Clip(t, lo, hi) y = Conv(r, v) }",
        6,
    ),
    "Sigmoid does not pass factors on": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[5,6,1,1] v>"
        "{ t = Conv(x, w) r = Sigmoid(t) y = Conv(r, v) }",
        0,
    ),
    "a sum with something else": (
        IMAGE + "(float[n,5,8,8] y) <float[3,3,1,1] w, float[5,3,1,1] v>"
        "{ t = Conv(x, w) s = Add(t, x) y = Conv(s, v) }",
        0,
    ),
    "a gate": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[6,3,1,1] z, float[5,6,1,1] v>"
        "{ t = Conv(x, w) s = Conv(x, z) g = Sigmoid(s) m = Mul(t, g) y = Conv(m, v) }",
        0,
    ),
    "an output of the model": (
        IMAGE + "(float[n,6,8,8] t, float[n,5,8,8] y) <float[6,3,1,1] w, float[5,6,1,1] v>"
        "{ t = Conv(x, w) y = Conv(t, v) }",
        0,
    ),
    "a Clip from below": (
        IMAGE + "(float[n,5,8,8] y) <float[6,3,1,1] w, float[5,6,1,1] v>"
        "{ lo = Constant<value_float=-1.0>() hi = Constant<value_float=1000.0>()"
        " t = Conv(x, w) r = Clip(t, lo, hi) y = Conv(r, v) }",
        0,
    ),
}


def prepare(text: str) -> ir.Model:
    model = load(parse(text))
    normalize(model)
    infer_shapes(model)
    return model


@pytest.mark.parametrize("name", NETS)
def test_outputs_stay_whatever_the_factors(name):
    text, expected = NETS[name]
    model = prepare(text)
    scaled = clone(model)
    channels = channel_map(scaled)
    found = find_scalable_channels(scaled, channels)
    assert found.units.sum() == expected
    factor = np.where(found.units, RNG.uniform(0.3, 4, len(found.units)), 1.0)
    undo = rescale(scaled, found.constants, factor)
    changed = set(scaled.graph.initializers) != set(model.graph.initializers)
    assert changed == bool(expected)
    shape = [2, *(int(dim) for dim in model.graph.inputs[0].shape[1:])]
    feed = {"x": RNG.standard_normal(shape).astype(np.float32)}
    want, got = Session(model).run(feed), Session(scaled).run(feed)
    for output in want:
        np.testing.assert_allclose(got[output], want[output], rtol=1e-4, atol=1e-4)
    undo()
    assert set(scaled.graph.initializers) == set(model.graph.initializers)
    got = Session(scaled).run(feed)
    assert all(np.array_equal(got[output], want[output]) for output in want)


def test_a_constant_that_two_layers_read_is_copied_for_the_one_that_is_scaled():
    model = prepare(
        IMAGE + "(float[n,6,8,8] y, float[n,5,8,8] z) <float[6,3,1,1] w, float[6] b,"
        "float[6,3,1,1] v, float[5,6,1,1] u>"
        "{ t = Conv(x, w, b) z = Conv(t, u) y = Conv(x, v, b) }"
    )
    scaled = clone(model)
    found = find_scalable_channels(scaled, channel_map(scaled))
    assert found.units.sum() == 6
    rescale(scaled, found.constants, np.where(found.units, 3.0, 1.0))
    feed = {"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}
    want, got = Session(model).run(feed), Session(scaled).run(feed)
    for output in want:
        np.testing.assert_allclose(got[output], want[output], rtol=1e-4, atol=1e-4)
