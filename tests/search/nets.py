"""A small net for which INT8 and channel pruning pay."""

from __future__ import annotations

import numpy as np

from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,16,16] x) => (float[n,10] y)
    <float[32,3,3,3] w, float[32] b, float[32,32,3,3] w2, float[32] b2,
     float[32,32,3,3] w3, float[32] b3, float[32,10] v, int64[2] shape = {0, -1}>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
      t2 = Conv<pads=[1,1,1,1]>(r, w2, b2)  r2 = Relu(t2)
      t3 = Conv<pads=[1,1,1,1]>(r2, w3, b3)  r3 = Relu(t3)
      p = GlobalAveragePool(r3)  f = Reshape(p, shape)  y = MatMul(f, v) }"""


def net():
    """Build a classifier with random weights, as large as those of a trained net."""
    proto = parse(NET)
    for tensor in proto.graph.initializer:
        if tensor.name.startswith("w"):
            array = np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims)
            fan_in = int(np.prod(tensor.dims[1:]))
            scaled = array / array.std() * np.sqrt(2 / fan_in)
            tensor.raw_data = scaled.astype(np.float32).tobytes()
    return proto


def images(count, seed=0):
    """Draw random images, each with a mean color of its own, so that outputs differ."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((count, 3, 1, 1)) * 2
    return (base + rng.standard_normal((count, 3, 16, 16))).astype(np.float32)
