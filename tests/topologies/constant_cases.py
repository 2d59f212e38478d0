"""Networks of further cases of weights that are quantized, shared or computed from others."""

from __future__ import annotations

from tests.topologies.net import FRONT, ROWS, W1, Net, between, rows

_ZERO = "int64[1] zero = {0}, int64[1] one = {1}"
_SCALES = "float[8] s = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}"


def grouped(nodes: str, more: str, free: tuple[int, ...] = (4, 4), **other: object) -> Net:
    """A convolution of two groups with the weight `k`."""
    return between(f"{nodes} d = Conv<group=2>(c, k)", more, free, **other)


CASES: dict[str, Net] = {
    "weight behind Cast and Identity": rows(
        "i = Identity(w3) k = Cast<to=1>(i) d = MatMul(c, k)", "float16[8,8] w3", (8, 8)
    ),
    "weight behind a transposition of some axes": Net(
        f"{FRONT} k = Transpose<perm=[1,0,2,3]>(w3) d = Conv(c, k) y = Conv(d, w2)",
        f"{W1}, float[8,6,1,1] w3, float[4,6,1,1] w2",
        [6, 8],
    ),
    "weight behind a transposition by default": between(
        "k = Transpose(w3) d = Conv(c, k)", "float[1,1,8,8] w3", (8, 8)
    ),
    "weight behind Flatten": rows(
        "k = Flatten<axis=1>(w3) d = MatMul(c, k)", "float[8,8,1] w3", (8, 8)
    ),
    "weight behind Squeeze": rows(
        "k = Squeeze(w3, zero) d = MatMul(c, k)", f"float[1,8,8] w3, {_ZERO}", (8, 8)
    ),
    "weight behind Reshape": rows(
        "k = Reshape(w3, s) d = MatMul(c, k)", "float[1,8,8,1] w3, int64[2] s = {8, 8}", (8, 8)
    ),
    "weight reshaped along its axis": Net(
        "c = MatMul(x, w1) k = Reshape(w3, s) d = MatMul(c, k) y = MatMul(d, w2)",
        "float[3,8] w1, float[2,4,6] w3, float[6,4] w2, int64[2] s = {8, 6}",
        [6],
        reason="reshaped along its axis",
        **ROWS,
    ),
    "weight of a computation": rows(
        "k = Exp(w3) d = MatMul(c, k)", "float[8,8] w3", (), reason="computed by Exp"
    ),
    "weight of no inputs": rows(
        "k = RandomNormal<shape=[8,8], seed=1.0>() d = MatMul(c, k)", free=(), reason="'k'"
    ),
    "weight in groups": grouped("k = Identity(wg)", "float[8,4,1,1] wg"),
    "weight in groups, quantized": grouped(
        "k = DequantizeLinear<axis=0>(wg, s)", f"int8[8,4,1,1] wg, {_SCALES}"
    ),
    "weight in groups, transposed": grouped(
        "k = Transpose<perm=[1,0,2,3]>(wg)", "float[4,8,1,1] wg", (4,), reason="in groups is moved"
    ),
    "weight in groups, reshaped": grouped(
        "k = Reshape(wg, s)",
        "float[8,4,1] wg, int64[4] s = {8, 4, 1, 1}",
        (4,),
        reason="in groups is moved",
    ),
    "weight quantized as a whole": between(
        "k = DequantizeLinear(w3, s, z) d = Conv(c, k)",
        "int8[8,8,1,1] w3, float s = {0.1}, int8 z = {3}",
        (8, 8),
    ),
    "weight quantized with one scale in a list": between(
        "k = DequantizeLinear(w3, s, z) d = Conv(c, k)",
        "int8[8,8,1,1] w3, float[1] s = {0.1}, int8[1] z = {3}",
        (8, 8),
    ),
    "weight quantized by columns": rows(
        "k = DequantizeLinear(w3, s, z) d = MatMul(c, k)",
        f"int8[8,8] w3, {_SCALES}, int8[8] z = {{1, 2, 3, 4, 5, 6, 7, 8}}",
        (8, 8),
    ),
    "weight quantized by rows": rows(
        "k = DequantizeLinear<axis=-2>(w3, s) d = MatMul(c, k)", f"int8[8,8] w3, {_SCALES}", (8, 8)
    ),
    "weight quantized here": rows(
        "q = QuantizeLinear(w3, s) k = DequantizeLinear(q, s) d = MatMul(c, k)",
        f"float[8,8] w3, {_SCALES}",
        (8, 8),
    ),
    "weight quantized in blocks": rows(
        "k = DequantizeLinear<axis=0, block_size=4>(w3, s) d = MatMul(c, k)",
        "int8[8,8] w3, float[2,8] s",
        (),
        opset=21,
        reason="quantized in blocks",
    ),
    "an input meets values": between(
        "d = Add(z, c)", free=(), inputs="float[n,3,6,6] x, float[n,8,6,6] z", reason="no units"
    ),
    "groups meet the rows of an input": between(
        "r = Reshape(c, s) a = Add(z, r) d = Reshape(a, t)",
        "int64[5] s = {0, 2, 4, 6, 6}, int64[4] t = {0, 8, 6, 6}",
        (2,),
        inputs="float[n,3,6,6] x, float[n,1,4,6,6] z",
    ),
    "units meet on another axis": Net(
        "c = MatMul(x, w1) t = Transpose<perm=[0,2,1]>(c) e = MatMul(x, w3) "
        "p = ReduceMean(t, two) q = ReduceMean(e, one) s = Add(p, q) y = MatMul(w2, s)",
        "float[3,8] w1, float[3,6] w3, float[4,8] w2, int64[1] one = {1}, int64[1] two = {2}",
        [8],
        inputs="float[n,5,3] x",
        outputs="float[n,4,6] y",
        reason="it meets units on another axis",
    ),
    "weight in groups, quantized here": grouped(
        "q = QuantizeLinear<axis=0>(wg, s) k = DequantizeLinear<axis=0>(q, s)",
        f"float[8,4,1,1] wg, {_SCALES}",
    ),
    "bias is an output": between("d = Relu(c)", outputs="float[n,o1,o2,o3] y, float[8] b1"),
    "target is an output": Net(
        f"{FRONT} r = Reshape(c, s) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, w)",
        f"{W1}, int64[3] s = {{0, 8, 36}}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y, int64[3] s",
    ),
}
