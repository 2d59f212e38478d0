"""One small network per way weights and sizes are shared, quantized, computed or held."""

from __future__ import annotations

from tests.topologies.net import BACK, EIGHT, FRONT, MW, W1, Net, between, rows

CONSTANTS: dict[str, Net] = {
    "quantized weights": between(
        "k = DequantizeLinear<axis=0>(wq, sq, zq) e = Conv(c, k) d = Relu(e)",
        "int8[8,8,1,1] wq, float[8] sq, int8[8] zq = {0, 0, 0, 0, 0, 0, 0, 0}",
        (8, 8),
    ),
    "quantized activations": between(
        "q = QuantizeLinear(c, s, z) d = DequantizeLinear(q, s, z)",
        "float s = {0.1}, uint8 z = {128}",
    ),
    "quantized activations per channel": between(
        "q = QuantizeLinear<axis=1>(c, s, z) d = DequantizeLinear<axis=1>(q, s, z)",
        "float[8] s = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}, "
        "uint8[8] z = {101, 102, 103, 104, 105, 106, 107, 108}",
    ),
    "weight is an output": Net(
        "c = MatMul(x, w1) y = MatMul(c, w2)",
        MW,
        [],
        inputs="float[n,5,3] x",
        outputs="float[n,o1,o2] y, float[8,4] w2",
        reason="output of the model",
    ),
    "weights behind nodes": rows(
        "k = Transpose<perm=[1,0]>(w3) e = MatMul(c, k) u = Unsqueeze(b, zero) d = Add(e, u)",
        "float[8,8] w3, float[8] b, int64[1] zero = {0}",
        (8, 8),
    ),
    "shared weight": rows("e = MatMul(c, w3) d = MatMul(e, w3)", "float[8,8] w3", (8,)),
    "shared bias": rows(
        "e = Add(c, b) f = MatMul(e, w3) d = Add(f, b)", "float[8,8] w3, float[8] b", (8, 8)
    ),
    "weight also an output": Net(
        "c = MatMul(x, w1) y = MatMul(c, w2) z = Identity(w2)",
        MW,
        [],
        inputs="float[n,5,3] x",
        outputs="float[n,o1,o2] y, float[8,4] z",
        reason="needs all of",
    ),
    "target from Shape": Net(
        f"{FRONT} s = Shape(c) h = Slice(s, zero, two) t = Concat<axis=0>(h, rest) "
        "r = Reshape(c, t) u = Transpose<perm=[0,2,1]>(r) y = MatMul(u, w)",
        f"{W1}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] rest = {{-1}}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "target from dims and constants": Net(
        f"{FRONT} s = Shape(c) b = Gather(s, zero) bu = Unsqueeze(b, axis) "
        "t = Concat<axis=0>(bu, eight, rest) r = Reshape(c, t) u = Transpose<perm=[0,2,1]>(r) "
        "y = MatMul(u, w)",
        f"{W1}, int64 zero = {{0}}, int64[1] axis = {{0}}, int64[1] eight = {{8}}, "
        "int64[1] rest = {-1}, float[8,4] w",
        [8],
        outputs="float[n,o1,o2] y",
    ),
    "arithmetic with a size": between(
        "s = Shape(c) k = Gather(s, one) f = Cast<to=1>(k) r = Sqrt(f) d = Div(c, r)",
        "int64 one = {1}",
        (),
        reason="computed with",
    ),
    "size is an output": Net(
        f"{FRONT} s = Shape<start=1>(c) {BACK}".replace("Conv(d, w2)", "Conv(c, w2)"),
        EIGHT,
        [],
        outputs="float[n,o1,o2,o3] y, int64[3] s",
        reason="'s' is an output",
    ),
    "computed padding": Net(
        f"{FRONT} s = Shape(c) p = Concat<axis=0>(zeros, s) d = Pad(c, p) {BACK}",
        f"{W1}, int64[4] zeros = {{0, 0, 0, 0}}, float[4,16,1,1] w2",
        [],
        inputs="float[1,3,6,6] x",
        outputs="float[2,4,12,12] y",
        reason="computed",
    ),
    "unknown operator": between("d = Hann(c)", free=())._replace(
        nodes=f"{FRONT} d = EyeLike(e) e = Squeeze(c) {BACK}".replace(
            "d = EyeLike(e) e = Squeeze(c)", "d = ScatterND(c, i, u)"
        ),
        weights=f"{EIGHT}, int64[1,1] i = {{0}}, float[1,8,6,6] u",
        inputs="float[1,3,6,6] x",
        outputs="float[1,o1,o2,o3] y",
        reason="has no channel rule",
    ),
    "used in a subgraph": Net(
        f"{FRONT} e = If(flag) <then_branch = a () => (float[n,8,6,6] p) {{ p = Relu(c) }}, "
        f"else_branch = b () => (float[n,8,6,6] q) {{ q = Tanh(c) }}> d = Relu(c) {BACK}",
        EIGHT,
        [],
        inputs="bool flag, float[n,3,6,6] x",
        outputs="float[n,o1,o2,o3] y, float[n,8,6,6] e",
        reason="subgraph",
    ),
}
