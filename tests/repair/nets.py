"""Networks to damage and repair, and how to do and to measure it."""

from __future__ import annotations

import numpy as np
import onnx

from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.runtime import Session

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
NET = f"""{HEADER} g (float[n,3,8,8] x) => (float[n,5] y)
    <float[6,3,3,3] w, float[6] b, float[6,6,3,3] v, float[6] c, float[6,5] u, float[5] d>
    {{ t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)  s = Conv<pads=[1,1,1,1]>(r, v, c)
       q = Add(s, r)  p = Relu(q)  a = GlobalAveragePool(p)  f = Flatten(a)
       y = Gemm(f, u, d) }}"""

#: One layer each: text, names of weight and bias, shape of a sample batch.
LAYERS = {
    "Conv": (
        "float[n,3,6,6] x) => (float[n,4,6,6] y) <float[4,3,3,3] w, float[4] b>"
        "{ y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        (16, 3, 6, 6),
    ),
    "depthwise": (
        "float[n,4,6,6] x) => (float[n,4,6,6] y) <float[4,1,3,3] w, float[4] b>"
        "{ y = Conv<pads=[1,1,1,1], group=4>(x, w, b) }",
        (16, 4, 6, 6),
    ),
    "grouped": (
        "float[n,4,6,6] x) => (float[n,6,4,4] y) <float[6,2,3,3] w, float[6] b>"
        "{ y = Conv<group=2>(x, w, b) }",
        (16, 4, 6, 6),
    ),
    "ConvTranspose": (
        "float[n,3,5,5] x) => (float[n,4,c,d] y) <float[3,4,3,3] w, float[4] b>"
        "{ y = ConvTranspose<strides=[2,2]>(x, w, b) }",
        (16, 3, 5, 5),
    ),
    "Gemm": (
        "float[n,5] x) => (float[n,4] y) <float[4,5] w, float[4] b>"
        "{ y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) }",
        (256, 5),
    ),
    "MatMul and Add": (
        "float[n,7,5] x) => (float[n,7,4] y) <float[5,4] w, float[4] b>"
        "{ t = MatMul(x, w)  y = Add(b, t) }",
        (64, 7, 5),
    ),
    "MatMul and Sum": (
        "float[n,7,5] x) => (float[n,7,4] y) <float[5,4] w, float[4] b>"
        "{ t = MatMul(x, w)  y = Sum(t, b) }",
        (64, 7, 5),
    ),
    "MatMul from the left": (
        "float[n,5,7] x) => (float[n,4,7] y) <float[4,5] w, float[4,1] b>"
        "{ t = MatMul(w, x)  y = Add(t, b) }",
        (64, 5, 7),
    ),
    "MatMul": (
        "float[n,7,5] x) => (float[n,7,4] y) <float[5,4] w> { y = MatMul(x, w) }",
        (64, 7, 5),
    ),
}


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def changed(proto: onnx.ModelProto, change) -> onnx.ModelProto:
    """A copy with `change(name, array)` for every initializer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        new = np.asarray(change(tensor.name, array), array.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
    return copy


def noisy(proto: onnx.ModelProto, size: float = 0.3) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    return changed(proto, lambda _, a: a + size * rng.standard_normal(a.shape))


def pruned(proto: onnx.ModelProto) -> onnx.ModelProto:
    return changed(proto, lambda _, a: np.where(np.abs(a) < 0.4, 0, a) if a.ndim > 1 else a)


def outputs(model, x: np.ndarray) -> np.ndarray:
    return next(iter(Session(load(model)).run({"x": x}).values()))


def noise(model, reference, x: np.ndarray) -> float:
    want = outputs(reference, x)
    return float(((outputs(model, x) - want) ** 2).sum() / (want**2).sum())


def weights(model) -> dict[str, np.ndarray]:
    return {k: const_array(v) for k, v in load(model).graph.initializers.items()}
