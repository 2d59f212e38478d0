"""The nets of the golden hashes, each with its samples: eleven kinds, all small and seeded."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from models.data import calibration_images
from models.decoder import Decoder, large_decoder
from onnxlite.model import load, to_proto
from tests.odd_models import parse

FASHION = Path(__file__).parents[2] / "models" / "fashion"

Inputs = dict[str, NDArray[np.generic]]


class Golden(NamedTuple):
    """A model and the samples that it is calibrated with."""

    model: onnx.ModelProto
    samples: Inputs


def _normal(name: str, *shape: int, seed: int = 0) -> Inputs:
    return {name: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def _fashion(name: str, count: int) -> Golden:
    model = onnx.load(FASHION / f"{name}.onnx")
    return Golden(model, {model.graph.input[0].name: calibration_images(count)})


def residual() -> Golden:
    """The committed residual net."""
    return _fashion("residual", 24)


def mobilenet() -> Golden:
    """The committed MobileNetV2-like net."""
    return _fashion("mobilenet", 24)


def transformer() -> Golden:
    """The committed vision transformer."""
    return _fashion("vit", 24)


def recurrent() -> Golden:
    """An LSTM and a GRU, one behind the other, with a classifier."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,12,16] x) => (float[n,10] y)
        <float[1,128,16] w1, float[1,128,32] r1, float[1,256] b1,
         float[1,96,32] w2, float[1,96,32] r2, float[1,192] b2,
         float[32,10] w3, float[10] b3, int64[1] one = {1}, int64[1] zero = {0}>
        {
          s = Transpose<perm = [1, 0, 2]>(x)
          a, ah, ac = LSTM<hidden_size = 32>(s, w1, r1, b1)
          c = Squeeze(a, one)
          d, e = GRU<hidden_size = 32>(c, w2, r2, b2)
          f = Squeeze(e, zero)
          y = Gemm(f, w3, b3)
        }"""
    )
    return Golden(model, _normal("x", 48, 12, 16))


def branching() -> Golden:
    """An `If` whose branches hold convolutions."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,12,12] x, bool wide) => (float[n,8] y)
        <float[16,3,3,3] w1, float[16] b1, float[32,16,3,3] w2, float[32,16,1,1] w3,
         float[32,8] w4, float[8] b4>
        {
          c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
          r = Relu(c)
          t = If (wide) <
            then_branch = yes () => (a) { a = Conv<pads = [1, 1, 1, 1]>(r, w2) },
            else_branch = no () => (b) { b = Conv(r, w3) }
          >
          u = Relu(t)
          p = GlobalAveragePool(u)
          f = Flatten(p)
          y = Gemm(f, w4, b4)
        }"""
    )
    return Golden(model, _normal("x", 48, 3, 12, 12) | {"wide": np.array(True)})


def dense() -> Golden:
    """Dense concatenation, channel shuffle, a gate, a transposed convolution, HardSwish."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,16,16] x) => (float[n,6,16,16] y)
        <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16,32,3,3] w3,
         float[16] s, float[16] o, float[16] m, float[16] v,
         float[48,12,3,3] w4, float[16,48,1,1] w5, float[48,16,1,1] w6,
         float[48,32,2,2] w7, float[32] b7, float[6,32,1,1] w8,
         int64[5] split = {0, 4, 12, 8, 8}, int64[4] join = {0, 48, 8, 8}>
        {
          c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)
          r1 = Relu(c1)
          c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
          n2 = BatchNormalization(c2, s, o, m, v2)
          r2 = HardSwish(n2)
          d1 = Concat<axis = 1>(r1, r2)
          c3 = Conv<pads = [1, 1, 1, 1]>(d1, w3)
          r3 = LeakyRelu(c3)
          d2 = Concat<axis = 1>(d1, r3)
          g1 = Reshape(d2, split)
          g2 = Transpose<perm = [0, 2, 1, 3, 4]>(g1)
          g3 = Reshape(g2, join)
          c4 = Conv<pads = [1, 1, 1, 1], group = 4>(g3, w4)
          p = GlobalAveragePool(c4)
          q = Conv(p, w5)
          qr = Relu(q)
          e = Conv(qr, w6)
          es = Sigmoid(e)
          h = Mul(c4, es)
          u = ConvTranspose<strides = [2, 2]>(h, w7, b7)
          ur = Relu(u)
          y = Conv(ur, w8)
        }""".replace("v2)", "v_abs)").replace("float[16] v,", "float[16] v_abs,")
    )
    for tensor in model.graph.initializer:
        if tensor.name == "v_abs":
            array = np.abs(onnx.numpy_helper.to_array(tensor)) + np.float32(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return Golden(model, _normal("x", 32, 3, 16, 16))


def detector() -> Golden:
    """A two-level detection head: boxes beside scores in one output."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,32,32] x) => (float[n,9,80] y)
        <float[16,3,3,3] w1, float[16] b1, float[32,16,3,3] w2, float[32] b2,
         float[32,32,3,3] w3, float[32] b3, float[32,64,1,1] w4, float[32] b4,
         float[4,32,1,1] wb1, float[5,32,1,1] wc1, float[4,32,1,1] wb2, float[5,32,1,1] wc2,
         int64[3] flat = {0, 9, -1}, float[4] up = {1, 1, 2, 2}, float stride = {8},
         int64[2] parts = {4, 5}>
        {
          c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)
          s1 = Sigmoid(c1)
          r1 = Mul(c1, s1)
          c2 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r1, w2, b2)
          s2 = Sigmoid(c2)
          r2 = Mul(c2, s2)
          c3 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r2, w3, b3)
          s3 = Sigmoid(c3)
          r3 = Mul(c3, s3)
          u3 = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                      nearest_mode = "floor">(r3, , up)
          d = Concat<axis = 1>(u3, r2)
          c4 = Conv(d, w4, b4)
          r4 = Relu(c4)
          p1 = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r4)
          a1 = Conv(p1, wb1)
          k1 = Conv(p1, wc1)
          h1 = Concat<axis = 1>(a1, k1)
          a2 = Conv(r3, wb2)
          k2 = Conv(r3, wc2)
          h2 = Concat<axis = 1>(a2, k2)
          f1 = Reshape(h1, flat)
          f2 = Reshape(h2, flat)
          all = Concat<axis = 2>(f1, f2)
          box, cls = Split<axis = 1>(all, parts)
          scaled = Mul(box, stride)
          score = Sigmoid(cls)
          y = Concat<axis = 1>(scaled, score)
        }"""
    )
    return Golden(model, _normal("x", 32, 3, 32, 32))


def decoder() -> Golden:
    """A Llama-like decoder of two layers."""
    sizes = Decoder(layers=2, width=64, hidden=128, heads=4, key_heads=2, vocabulary=96)
    with TemporaryDirectory() as folder:
        model = to_proto(load(large_decoder(Path(folder) / "decoder.onnx", sizes=sizes)))
    ids = np.random.default_rng(0).integers(0, 96, (32, 12))
    return Golden(model, {"ids": ids})


def perceptron() -> Golden:
    """Wide products with an embedding in front, and LayerNormalization."""
    model = parse(
        """<ir_version: 10, opset_import: ["": 20]>
        g (int64[n,6] ids) => (float[n,10] y)
        <float[200,32] table, float[32] s, float[32] o, float[32,128] w1, float[128] b1,
         float[128,32] w2, float[32] b2, float[32,10] w3, float[10] b3, int64[1] axes = {1}>
        {
          t = Gather(table, ids)
          n1 = LayerNormalization(t, s, o)
          m1 = MatMul(n1, w1)
          a1 = Add(m1, b1)
          g1 = Gelu(a1)
          m2 = MatMul(g1, w2)
          a2 = Add(m2, b2)
          h = Add(t, a2)
          r = ReduceMean<keepdims = 0>(h, axes)
          y = Gemm(r, w3, b3)
        }"""
    )
    return Golden(model, {"ids": np.random.default_rng(0).integers(0, 200, (48, 6))})


def sequence() -> Golden:
    """A one-dimensional convolution net in front of a Loop-free bidirectional LSTM."""
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8,40] x) => (float[t,n,12] y)
        <float[24,8,5] w1, float[24] b1, float[24,1,3] w2, float[32,24,1] w3, float[32] b3,
         float[2,64,32] w4, float[2,64,16] r4, float[2,128] b4, float[32,12] w5,
         int64[3] flat = {0, 0, -1}>
        {
          c1 = Conv<pads = [2, 2], strides = [2]>(x, w1, b1)
          e1 = Clip(c1)
          r1 = Relu(e1)
          c2 = Conv<pads = [1, 1], group = 24>(r1, w2)
          c3 = Conv(c2, w3, b3)
          t3 = Tanh(c3)
          s = Transpose<perm = [2, 0, 1]>(t3)
          l, lh, lc = LSTM<direction = "bidirectional", hidden_size = 16>(s, w4, r4, b4)
          q = Transpose<perm = [0, 2, 1, 3]>(l)
          f = Reshape(q, flat)
          y = MatMul(f, w5)
        }"""
    )
    return Golden(model, _normal("x", 48, 8, 40))


NETS = {
    net.__name__: net
    for net in (
        residual,
        mobilenet,
        transformer,
        recurrent,
        branching,
        dense,
        detector,
        decoder,
        perceptron,
        sequence,
    )
}
