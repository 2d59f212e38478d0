"""Small nets whose sizes depend on values."""

from __future__ import annotations

import numpy as np
import onnx

from tests.odd_models import parse

#: Tokens repeated by their rounded durations: `y: float[b, frames, 8]`.
DURATIONS = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b,t,8] x) => (float[b,f,8] y)
    <float[8,8] w, float[8,1] v, float[8,8] u, int64[1] last = {-1}, int64[1] one = {1},
     int64 axis = {1}, int64 zero = {0}, int64 step = {1}, float low = {1}, float high = {9}>
    {
        h = MatMul(x, w)  r = Relu(h)  d = MatMul(r, v)  e = Exp(d)  k = Clip(e, low, high)
        s = Squeeze(k, last)  c = Ceil(s)  ends = CumSum(c, axis)
        total = ReduceSum<keepdims=0>(c, one)  most = ReduceMax<keepdims=0>(total)
        count = Cast<to=7>(most)  frames = Range(zero, count, step)  place = Cast<to=1>(frames)
        wide = Unsqueeze(ends, last)  before = Less(place, wide)  path = Cast<to=1>(before)
        turned = Transpose<perm=[0,2,1]>(path)  z = MatMul(turned, r)  y = MatMul(z, u)
    }"""

#: Positions of positive scores: a selection, whose sizes are not along the batch.
SELECTION = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b,8] x) => (float[k,4] y) <float[8,4] w, float zero = {0}, int64[1] one = {1}>
    { s = MatMul(x, w)  m = ReduceMax<axes=[1], keepdims=0>(s)  p = Greater(m, zero)
      y = Compress<axis=0>(s, p) }"""


def durations() -> onnx.ModelProto:
    """`DURATIONS` with weights that give 1 to 9 frames per token."""
    model = parse(DURATIONS)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name in "wvu":
            array = rng.standard_normal(tensor.dims).astype(np.float32) * 0.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal values, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
