"""Integers start where the reference has the weight, and are the same integers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from onnxlite.graph import const_array
from onnxlite.model import clone, load
from onnxlite.normalize import normalize
from onnxlite.quantize import quantize_static
from onnxlite.tune.parameters import QuantizedWeight
from onnxlite.tune.student import Student
from onnxlite.tune.trainable import ONE_STEP, rounding_residual
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,3,8,8] x) => (float[n,4] y)
    <float[16,3,3,3] w, float[16] b, float[16,4] v>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
      p = GlobalAveragePool(r)  f = Flatten(p)  y = MatMul(f, v) }"""


def test_what_rounding_took():
    original = np.array([[1.2, -0.7, 9.0], [0.0, 0.49, 0.6]])
    now = np.array([[1.0, -1.0, 1.0], [0.0, 0.0, 1.0]])
    assert np.allclose(
        rounding_residual(original, now, np.ones((2, 1)), ONE_STEP),
        [[0.2, 0.3, 0], [0, 0.45, -0.4]],
    )
    assert np.allclose(rounding_residual(original, now, np.ones((2, 1)))[0, 2], 0.45)
    assert not rounding_residual(original[:1], now, np.ones((2, 1))).any()
    assert not rounding_residual(None, now, np.ones((2, 1))).any()


@pytest.mark.parametrize("known", [False, True])
def test_of_a_quantized_net(known):
    net = parse(NET)
    images = np.random.default_rng(0).standard_normal((40, 3, 8, 8), np.float32)
    small = load(quantize_static(net, images, placement="everything", equalize=False).model)
    reference = clone(load(net))
    normalize(reference)
    student = Student(small, reference if known else None)
    weights = [item for item in student.constants if isinstance(item, QuantizedWeight)]
    assert weights
    written = student.written().graph.initializers
    stored = {name: const_array(value) for name, value in small.graph.initializers.items()}
    for item in weights:
        integers = stored[item.names[0]]
        start = item.tensors[0].tensor.detach().numpy()
        assert np.array_equal(np.rint(start), integers)
        assert bool((start != integers).any()) == known
        assert np.array_equal(const_array(written[item.names[0]]), integers)
