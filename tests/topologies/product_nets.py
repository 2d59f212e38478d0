"""One small network per channel rule: matrix products, attention, recurrent cells."""

from __future__ import annotations

from tests.topologies.net import ROWS, Net, rows

PRODUCTS: dict[str, Net] = {
    "matmul": rows("d = Gelu(c)", opset=20),
    "matmul with bias": rows("e = Add(b, c) d = Relu(e)", "float[8] b"),
    "constant on the left": Net(
        "c = MatMul(w1, x) d = Relu(c) y = MatMul(w2, d)",
        "float[8,5] w1, float[4,8] w2",
        [8],
        **ROWS,
    ),
    "stacked weights": Net(
        "c = MatMul(x, w1) d = Relu(c) y = MatMul(d, w2)",
        "float[2,3,8] w1, float[2,8,4] w2",
        [8],
        inputs="float[n,2,5,3] x",
    ),
    "gemm": Net(
        "c = Gemm(x, w1, b1) d = Relu(c) y = Gemm<transB=1, alpha=0.5>(d, w2, b2)",
        "float[3,8] w1, float[8] b1, float[4,8] w2, float[4] b2",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    ),
    "gemm of the transposed": Net(
        "c = Gemm<transA=1>(w1, x) t = Transpose<perm=[1,0]>(c) y = Gemm<transA=1>(w2, c)",
        "float[3,8] w1, float[8,4] w2",
        [8],
        inputs="float[3,5] x",
        outputs="float[4,5] y",
    ),
    "gemm plus computed": Net(
        "c = Gemm(x, w1, b1) e = Gemm(x, w3, c) y = MatMul(e, w2)",
        "float[3,8] w1, float[8] b1, float[3,8] w3, float[8,4] w2",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    ),
    "einsum": Net(
        'c = Einsum<equation="bij,jk->bik">(x, w1) d = Relu(c) '
        'y = Einsum<equation="bij,kj->bik">(d, w2)',
        "float[3,8] w1, float[4,8] w2",
        [8],
        **ROWS,
    ),
    "einsum heads": Net(
        'q = Einsum<equation="bnc,chd->bnhd">(x, w1) k = Einsum<equation="bnc,chd->bnhd">(x, w3) '
        'a = Einsum<equation="bnhd,bmhd->bhnm">(q, k) s = Softmax(a) '
        'v = Einsum<equation="bnc,chd->bnhd">(x, w4) '
        'o = Einsum<equation="bhnm,bmhd->bnhd">(s, v) y = Einsum<equation="bnhd,hdc->bnc">(o, w2)',
        "float[3,4,2] w1, float[3,4,2] w3, float[3,4,2] w4, float[4,2,3] w2",
        [4],
        **ROWS,
    ),
    "attention": Net(
        "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,3,1]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "a0 = MatMul(q, k) a1 = Div(a0, r) a = Softmax<axis=-1>(a1) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] wq, float[12] bq, float[3,12] wk, float[3,12] wv, float[12,3] wo, "
        "float r = {1.4}, int64[4] s = {0, 0, 4, 3}, int64[3] u = {0, 0, 12}",
        [4],
        **ROWS,
    ),
    "attention, fused": Net(
        "p = MatMul(x, w) p1 = Add(p, b) p2 = Reshape(p1, s) p3 = Transpose<perm=[2,0,3,1,4]>(p2) "
        "q = Gather<axis=0>(p3, zero) k = Gather<axis=0>(p3, one) v = Gather<axis=0>(p3, two) "
        "kt = Transpose<perm=[0,1,3,2]>(k) a0 = MatMul(q, kt) a = Softmax<axis=-1>(a0) "
        "o0 = MatMul(a, v) o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,36] w, float[36] b, float[12,3] wo, int64 zero = {0}, int64 one = {1}, "
        "int64 two = {2}, int64[5] s = {0, 0, 3, 4, 3}, int64[3] u = {0, 0, 12}",
        [4],
        **ROWS,
    ),
    "attention, split, one head": Net(
        "p = MatMul(x, w) q, k, v = Split<axis=2>(p, s) kt = Transpose<perm=[0,2,1]>(k) "
        "a0 = MatMul(q, kt) a = Softmax<axis=-1>(a0) o = MatMul(a, v) y = MatMul(o, wo)",
        "float[3,14] w, int64[3] s = {4, 4, 6}, float[6,3] wo",
        [4, 6],
        **ROWS,
    ),
    "attention, grouped queries": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, sk) k3 = Transpose<perm=[0,2,3,1]>(k2) "
        "k4 = Unsqueeze(k3, two) k5 = Expand(k4, ek) k = Reshape(k5, rk) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, sk) v3 = Transpose<perm=[0,2,1,3]>(v2) "
        "v4 = Unsqueeze(v3, two) v5 = Expand(v4, ev) v = Reshape(v5, rv) "
        "a0 = MatMul(q, k) a = Softmax<axis=-1>(a0) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,18] wq, float[3,9] wk, float[3,9] wv, float[18,3] wo, int64[1] two = {2}, "
        "int64[4] s = {0, 0, 6, 3}, int64[4] sk = {0, 0, 3, 3}, int64[5] ek = {1, 3, 2, 3, 5}, "
        "int64[4] rk = {0, 6, 3, 5}, int64[5] ev = {1, 3, 2, 5, 3}, int64[4] rv = {0, 6, 5, 3}, "
        "int64[3] u = {0, 0, -1}",
        [3],
        **ROWS,
    ),
    "rotary attention": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q3 = Transpose<perm=[0,2,1,3]>(q2) "
        "qa, qb = Split<axis=3, num_outputs=2>(q3) qn = Neg(qb) qr = Concat<axis=3>(qn, qa) "
        "qc = Mul(q3, cos) qs = Mul(qr, sin) q = Add(qc, qs) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,3,1]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "a0 = MatMul(q, k) a = Softmax<axis=-1>(a0) o0 = MatMul(a, v) "
        "o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] wq, float[3,12] wk, float[3,12] wv, float[12,3] wo, float[5,4] cos, "
        "float[5,4] sin, int64[4] s = {0, 0, 3, 4}, int64[3] u = {0, 0, -1}",
        [3],
        **ROWS,
    ),
    "fused attention": Net(
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) "
        "o = Attention<q_num_heads=6, kv_num_heads=3>(q, k, v) y = MatMul(o, wo)",
        "float[3,24] wq, float[3,12] wk, float[3,6] wv, float[12,3] wo",
        [3],
        opset=23,
        **ROWS,
    ),
    "fused attention of four axes": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,1,3]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "o0 = Attention(q, k, v, mask) o1 = Transpose<perm=[0,2,1,3]>(o0) "
        "o = Reshape(o1, u) y = MatMul(o, wo)",
        "float[3,12] wq, float[3,12] wk, float[3,12] wv, float[12,3] wo, float[5,5] mask, "
        "int64[4] s = {0, 0, 4, 3}, int64[3] u = {0, 0, 12}",
        [4],
        opset=23,
        **ROWS,
    ),
    "fused attention to an input": Net(
        "q = MatMul(x, wq) v = MatMul(x, wv) "
        "o = Attention<q_num_heads=2, kv_num_heads=2>(q, z, v) y = MatMul(o, wo)",
        "float[3,8] wq, float[3,8] wv, float[8,3] wo",
        [],
        inputs="float[n,5,3] x, float[n,5,8] z",
        outputs="float[n,o1,o2] y",
        opset=23,
        reason="attention on computed values",
    ),
    "lstm": Net(
        "h, last = LSTM<hidden_size=6>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, w2)",
        "float[1,24,3] w, float[1,24,6] r, float[1,48] b, int64[1] one = {1}, float[6,4] w2",
        [6],
        **ROWS,
    ),
    "lstm, two directions": Net(
        "e = MatMul(x, w0) h, last, cell = "
        'LSTM<hidden_size=6, direction="bidirectional">(e, w, r, b, "", h0, h0, p) '
        "t = Transpose<perm=[0,2,1,3]>(h) s = Reshape(t, to) y = MatMul(s, w2)",
        "float[3,5] w0, float[2,24,5] w, float[2,24,6] r, float[2,48] b, float[2,2,6] h0, "
        "float[2,18] p, int64[3] to = {0, 0, 12}, float[12,4] w2",
        [5, 6],
        inputs="float[7,2,3] x",
        outputs="float[7,2,4] y",
    ),
    "gru": Net(
        'h, last = GRU<hidden_size=6, linear_before_reset=1>(x, w, r, b, "", h0) '
        "s = Squeeze(last, zero) y = MatMul(s, w2)",
        "float[1,18,3] w, float[1,18,6] r, float[1,36] b, float[1,2,6] h0, int64[1] zero = {0}, "
        "float[6,4] w2",
        [6],
        inputs="float[7,2,3] x",
        outputs="float[2,4] y",
    ),
    "rnn": Net(
        "h = RNN<hidden_size=6>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, w2)",
        "float[1,6,3] w, float[1,6,6] r, float[1,12] b, int64[1] one = {1}, float[6,4] w2",
        [6],
        **ROWS,
    ),
    "lstm with a state from outside": Net(
        'h, last = LSTM<hidden_size=6>(x, w, r, b, "", h0) s = Squeeze(h, one) y = MatMul(s, w2)',
        "float[1,24,3] w, float[1,24,6] r, float[1,48] b, int64[1] one = {1}, float[6,4] w2",
        [],
        inputs="float[n,2,3] x, float[1,2,6] h0",
        outputs="float[n,2,4] y",
        reason="state",
    ),
}
