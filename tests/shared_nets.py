"""Small nets whose layers share weights, each with its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.odd_models import parse

#: Width of the layers, entries of the tables and readers of each shared weight.
WIDTH, ENTRIES, READERS = 64, 512, 4

Net = tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]


def _made(text: str) -> Net:
    """Parse a net, fill its weights and make 64 samples of 4 rows."""
    model = parse(text)
    rng = np.random.default_rng(3)
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.name.startswith("w"):
            continue
        dims = list(tensor.dims)
        fan = int(np.prod(dims[1:])) if len(dims) == 4 else dims[0] if dims[0] != ENTRIES else WIDTH
        array = rng.standard_normal(dims) / np.sqrt(fan)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in model.graph.input:
        shape = [64, *(d.dim_value or 4 for d in value.type.tensor_type.shape.dim[1:])]
        if value.name == "flag":
            feeds["flag"] = np.array(1, bool)
        elif value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            feeds[value.name] = rng.integers(0, ENTRIES, shape)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return model, feeds


def _outliers(net: Net, *names: str) -> Net:
    """Make a few channels of normalisation gains 60 times as large."""
    for tensor in net[0].graph.initializer:
        if tensor.name in names:
            gain = onnx.numpy_helper.to_array(tensor).copy()
            gain[:] = 1
            gain[[3, 9]] = 60
            tensor.CopyFrom(onnx.numpy_helper.from_array(gain, tensor.name))
    return net


_HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def tied_layers(readers: int = READERS, kind: str = "MatMul", d: int = WIDTH) -> Net:
    """One block of two products `readers` times, each behind a normalisation of its own."""
    lines, state = [], "x"
    for i in range(readers):
        if kind == "MatMul":
            first = f"a{i} = MatMul(n{i}, w0) p{i} = Add(a{i}, b0)"
            second = f"c{i} = MatMul(r{i}, w1) q{i} = Add(c{i}, b1)"
        else:
            first = f"p{i} = Gemm<transB=1>(n{i}, w0, b0)"
            second = f"q{i} = Gemm<transB=1>(r{i}, w1, b1)"
        lines.append(
            f"n{i} = LayerNormalization({state}, g, s) {first} r{i} = Relu(p{i})"
            f" {second} h{i} = Add({state}, q{i})"
        )
        state = f"h{i}"
    rows = "n,t" if kind == "MatMul" else "n"
    text = (
        f"{_HEAD} g (float[{rows},{d}] x) => (float[{rows},{d}] y)"
        f" <float[{d},{2 * d}] w0, float[{2 * d},{d}] w1, float[{2 * d}] b0, float[{d}] b1,"
        f" float[{d}] g, float[{d}] s> {{ {' '.join(lines)} y = Identity({state}) }}"
    )
    if kind == "Gemm":
        text = text.replace(f"float[{d},{2 * d}] w0", f"float[{2 * d},{d}] w0")
        text = text.replace(f"float[{2 * d},{d}] w1", f"float[{d},{2 * d}] w1")
    return _outliers(_made(text), "g")


def tied_gemm() -> Net:
    """As `tied_layers`, with Gemm."""
    return tied_layers(kind="Gemm")


def tied_conv() -> Net:
    """One convolution three times."""
    lines = " ".join(
        f"c{i} = Conv<pads=[1,1,1,1]>({'x' if not i else f'r{i - 1}'}, w, b) r{i} = Relu(c{i})"
        for i in range(3)
    )
    return _made(
        f"{_HEAD} g (float[n,16,8,8] x) => (float[n,16,8,8] y)"
        f" <float[16,16,3,3] w, float[16] b> {{ {lines} y = Identity(r2) }}"
    )


def unrolled_cell(steps: int = READERS) -> Net:
    """A recurrent cell, unrolled: `h = Tanh(x_t W + h U)`."""
    d, lines, state = WIDTH, [], "h"
    lines.append("h = Mul(x0, zero)")
    for i in range(steps):
        lines.append(
            f"a{i} = MatMul(x{i}, w0) c{i} = MatMul({state}, w1) p{i} = Add(a{i}, c{i})"
            f" h{i} = Tanh(p{i})"
        )
        state = f"h{i}"
    names = ", ".join(f"x{i}" for i in range(steps))
    split = f"{names} = Split<axis=1>(x, sizes)"
    sizes = ",".join([str(d)] * steps)
    return _made(
        f"{_HEAD} g (float[n,{steps * d}] x) => (float[n,{d}] y)"
        f" <float[{d},{d}] w0, float[{d},{d}] w1, float zero = {{0}},"
        f" int64[{steps}] sizes = {{{sizes}}}> {{ {split} {' '.join(lines)}"
        f" y = Identity({state}) }}"
    )


def tied_embedding() -> Net:
    """A table read by Gather and, transposed, by the last product."""
    d, n = WIDTH, ENTRIES
    return _made(
        f"{_HEAD} g (int64[n,t] i) => (float[n,t,{n}] y)"
        f" <float[{n},{d}] w, float[{d},{d}] w1, float[{d}] g, float[{d}] s>"
        " { e = Gather(w, i) m = MatMul(e, w1) r = Relu(m) a = Add(e, r)"
        " h = LayerNormalization(a, g, s) v = Transpose<perm=[1,0]>(w) y = MatMul(h, v) }"
    )


def tied_embedding_if() -> Net:
    """As `tied_embedding`, with the table read in both bodies of an If."""
    d, n = WIDTH, ENTRIES
    body = "v{0} = Transpose<perm=[1,0]>(w) h{0} = {1}(m) y{0} = MatMul(h{0}, v{0})"
    return _made(
        f"{_HEAD} g (bool flag, int64[n,t] i) => (float[n,t,{n}] y)"
        f" <float[{n},{d}] w, float[{d},{d}] w1>"
        " { e = Gather(w, i) m = MatMul(e, w1) y = If(flag) <"
        f" then_branch = yes () => (float[n,t,{n}] y0) {{ {body.format(0, 'Relu')} }},"
        f" else_branch = no () => (float[n,t,{n}] y1) {{ {body.format(1, 'Tanh')} }}> }}"
    )


def weights_in_bodies() -> Net:
    """A product whose weight the bodies of an If read as well."""
    d = WIDTH
    return _made(
        f"{_HEAD} g (bool flag, float[n,t,{d}] x) => (float[n,t,{d}] y)"
        f" <float[{d},{d}] w0, float[{d},{d}] w1>"
        " { a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) y = If(flag) <"
        f" then_branch = yes () => (float[n,t,{d}] y0)"
        " { c0 = MatMul(b, w0) d0 = Relu(c0) y0 = MatMul(d0, w1) },"
        f" else_branch = no () => (float[n,t,{d}] y1) {{ c1 = MatMul(b, w1) y1 = Tanh(c1) }}> }}"
    )


def positional_table() -> Net:
    """A table of positions read by Slice, and one of tokens by Gather."""
    d, n = WIDTH, ENTRIES
    return _made(
        f"{_HEAD} g (int64[n,t] i) => (float[n,t,{d}] y)"
        f" <float[{n},{d}] w, float[1,{n},{d}] wp, float[{d},{d}] w1, int64[1] zero = {{0}},"
        " int64[1] one = {1}>"
        " { e = Gather(w, i) k = Shape<start=1>(i) p = Slice(wp, zero, k, one)"
        " a = Add(e, p) y = MatMul(a, w1) }"
    )


#: Nets by name.
NETS: Mapping[str, Callable[[], Net]] = MappingProxyType(
    {
        "tied layers": tied_layers,
        "tied gemm": tied_gemm,
        "tied conv": tied_conv,
        "unrolled cell": unrolled_cell,
        "tied embedding": tied_embedding,
        "tied embedding in bodies": tied_embedding_if,
        "weights in bodies": weights_in_bodies,
        "positional table": positional_table,
    }
)
