"""Networks of further cases of matrix products, attention and recurrent cells."""

from __future__ import annotations

from tests.topologies.net import ROWS, Net, rows

_STATES = "attention on computed values without units, or with a state"
_CELL = {"w": "float[1,24,3] w", "r": "float[1,24,6] r", "b": "float[1,48] b", "p": "float[1,18] p"}


def heads(call: str, more: str = "", **other: object) -> Net:
    """Fused attention with two heads of four."""
    weights = "float[3,8] wq, float[3,8] wk, float[3,8] wv, float[8,3] wo"
    return Net(
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) "
        f"{call.replace('{n}', 'q_num_heads=2, kv_num_heads=2')} y = MatMul(o, wo)",
        f"{weights}, {more}" if more else weights,
        **({"free": [], "reason": _STATES, "opset": 23} | ROWS | other),  # type: ignore[arg-type]
    )


def cell(computed: str) -> Net:
    """A recurrent cell of which one weight is an input."""
    return Net(
        'c = MatMul(x, w1) h = LSTM<hidden_size=6>(c, w, r, b, "", "", "", p) y = Relu(h)',
        ", ".join(["float[4,3] w1", *(kind for name, kind in _CELL.items() if name != computed)]),
        [],
        inputs=f"float[7,2,4] x, {_CELL[computed]}",
        outputs="float[7,1,2,6] y",
        reason="the weights of the recurrent cell are computed",
    )


CASES: dict[str, Net] = {
    "vector times matrix": Net(
        "c = Gemm(x, w1) s = ReduceSum<keepdims=0>(c, zero) r = Relu(s) y = MatMul(r, w2)",
        "float[3,8] w1, float[8,4] w2, int64[1] zero = {0}",
        [8],
        inputs="float[n,3] x",
        outputs="float[4] y",
    ),
    "matrix times vector": Net(
        "c = MatMul(x, w1) d = Relu(c) e = MatMul(d, w2) y = MatMul(e, w3)",
        "float[3,8] w1, float[8] w2, float[5,4] w3",
        [8],
        inputs="float[n,5,3] x",
        outputs="float[n,4] y",
    ),
    "constant vector on the left": Net(
        "c = MatMul(w1, x) d = Relu(c) e = MatMul(w2, d) y = MatMul(e, w3)",
        "float[8,5] w1, float[8] w2, float[3,4] w3",
        [8],
        inputs="float[5,3] x",
        outputs="float[4] y",
    ),
    "gemm of all the transposed": Net(
        "c = Gemm<transA=1, transB=1>(x, w1) d = Relu(c) y = MatMul(d, w2)",
        "float[8,3] w1, float[8,4] w2",
        [8],
        inputs="float[3,n] x",
        outputs="float[n,4] y",
    ),
    "gemm times units": Net(
        "c = Gemm<transB=1>(x, w1) e = Gemm<transB=1>(x, w3) f = Gemm<transB=1>(c, e) "
        "y = MatMul(f, w2)",
        "float[8,3] w1, float[8,3] w3, float[5,4] w2",
        [8],
        inputs="float[5,3] x",
        outputs="float[5,4] y",
    ),
    "units times values without": rows(
        "d = MatMul(c, z)",
        free=(),
        inputs="float[n,5,3] x, float[n,8,8] z",
        reason="multiplied with values that have no units ('z')",
    ),
    "values without times units": Net(
        "c = MatMul(x, w1) t = Transpose<perm=[0,2,1]>(c) y = MatMul(z, t)",
        "float[3,8] w1",
        [],
        inputs="float[n,5,3] x, float[n,4,8] z",
        outputs="float[n,4,5] y",
        reason="multiplied with values that have no units ('z')",
    ),
    "values without mix the rows": rows(
        "d = MatMul(z, c)", inputs="float[n,5,3] x, float[n,4,5] z", outputs="float[n,4,o] y"
    ),
    "outer product": Net(
        "c = MatMul(x, w1) e = MatMul(x, w3) t = Transpose<perm=[0,2,1]>(c) y = MatMul(t, e)",
        "float[3,8] w1, float[3,6] w3",
        [],
        inputs="float[n,5,3] x",
        outputs="float[n,8,6] y",
        reason="two tracked values has two axes",
    ),
    "outer product read along one axis": Net(
        "c = MatMul(x, w1) e = MatMul(x, w3) t = Transpose<perm=[0,2,1]>(c) o = MatMul(t, e) "
        "y = MatMul(o, w2)",
        "float[3,8] w1, float[3,6] w3, float[6,4] w2",
        [],
        inputs="float[n,5,3] x",
        outputs="float[n,8,4] y",
        reason="two tracked values has two axes",
    ),
    "einsum over both axes of a grid": Net(
        'c = MatMul(x, w1) g = Reshape(c, s) y = Einsum<equation="bnhd,hdc->bnc">(g, w2)',
        "float[3,8] w1, int64[4] s = {0, 0, 2, 4}, float[2,4,3] w2",
        [2],
        **ROWS,
    ),
    "einsum sums a unit": Net(
        'c = MatMul(x, w1) y = Einsum<equation="bnk,j->bnj">(c, w2)',
        "float[3,8] w1, float[4] w2",
        [],
        reason="summed over",
        **ROWS,
    ),
    "einsum sums a unit of computed values": Net(
        'c = MatMul(x, w1) y = Einsum<equation="bnk,bnj->bnj">(c, z)',
        "float[3,8] w1",
        [],
        inputs="float[n,5,3] x, float[n,5,4] z",
        outputs="float[n,5,4] y",
        reason="summed over",
    ),
    "einsum scales units": Net(
        'c = MatMul(x, w1) d = Einsum<equation=" bnk, k -> bnk ">(c, g) y = MatMul(d, w2)',
        "float[3,8] w1, float[8] g, float[8,4] w2",
        [8],
        **ROWS,
    ),
    "einsum of three": rows(
        'd = Einsum<equation="bnk,k,kj->bnj">(c, g, w3)',
        "float[8] g, float[8,8] w3",
        (),
        reason="is not a product of two",
    ),
    "einsum of one": rows('d = Einsum<equation="bnk->bnk">(c)', free=(), reason="product of two"),
    "einsum with an ellipsis": rows(
        'd = Einsum<equation="...k,kj->...j">(c, w3)', "float[8,8] w3", (), reason="product of two"
    ),
    "einsum without an arrow": Net(
        'c = MatMul(x, w1) y = Einsum<equation="nk,kj">(c, w2)',
        "float[3,8] w1, float[8,4] w2",
        [],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
        reason="product of two",
    ),
    "einsum of a diagonal": Net(
        'c = MatMul(x, w1) y = Einsum<equation="nkk,kj->nj">(c, w2)',
        "float[3,8] w1, float[8,4] w2",
        [],
        inputs="float[n,8,3] x",
        outputs="float[n,4] y",
        reason="product of two",
    ),
    "einsum sums alone": Net(
        'c = MatMul(x, w1) y = Einsum<equation="nk,k->n">(c, w2) z = MatMul(x, w3)',
        "float[3,8] w1, float[8] w2, float[3,4] w3",
        [8],
        inputs="float[n,3] x",
        outputs="float[n] y, float[n,4] z",
    ),
    "fused attention with a mask per head": heads(
        "o = Attention<{n}>(q, k, v, m)", "bool[1,2,5,5] m"
    ),
    "fused attention with a shared mask": heads(
        "o = Attention<{n}>(q, k, v, m)", "bool[1,1,5,5] m", free=[2], reason=""
    ),
    "fused attention with a computed mask": heads(
        "m = MatMul(z, wm) o = Attention<{n}>(q, k, v, m)",
        "float[3,5] wm",
        free=[2],
        inputs="float[n,5,3] x, float[5,3] z",
        reason="it is a mask or a past state",
    ),
    "fused attention with a past": heads(
        'o = Attention<{n}>(q, k, v, "", p, p)',
        "float[1,2,2,4] p",
        inputs="float[1,5,3] x",
    ),
    "fused attention that keeps its keys": heads("o, pk = Attention<{n}>(q, k, v)"),
    "gru with lengths": Net(
        "h, last = GRU<hidden_size=6>(x, w, r, b, lengths) s = Squeeze(h, one) y = MatMul(s, w2)",
        "float[1,18,3] w, float[1,18,6] r, float[1,36] b, int32[2] lengths = {7, 5}, "
        "int64[1] one = {1}, float[6,4] w2",
        [6],
        inputs="float[7,2,3] x",
        outputs="float[7,2,4] y",
    ),
    "gru with computed lengths": Net(
        "m = MatMul(z, wz) g = Sigmoid(m) u = Ceil(g) l = Cast<to=6>(u) "
        'h, last = GRU<hidden_size=6>(x, w, r, "", l) s = Squeeze(h, one) y = MatMul(s, w2)',
        "float[3,2] wz, float[1,18,3] w, float[1,18,6] r, int64[1] one = {1}, float[6,4] w2",
        [6],
        inputs="float[7,2,3] x, float[3] z",
        outputs="float[7,2,4] y",
        reason="it is a length",
    ),
    "gru with a state of units": Net(
        'i = Einsum<equation="dbk,kh->dbh">(z, wz) '
        'h, last = GRU<hidden_size=6>(x, w, r, "", "", i) s = Squeeze(h, one) y = MatMul(s, w2)',
        "float[3,6] wz, float[1,18,3] w, float[1,18,6] r, int64[1] one = {1}, float[6,4] w2",
        [6],
        inputs="float[7,2,3] x, float[1,2,3] z",
        outputs="float[7,2,4] y",
    ),
    "rnn without a bias, with a state": Net(
        'h = RNN<hidden_size=6>(x, w, r, "", "", h0) y = MatMul(h, w2)',
        "float[1,6,3] w, float[1,6,6] r, float[1,2,6] h0, float[6,4] w2",
        [6],
        inputs="float[7,2,3] x",
        outputs="float[7,1,2,4] y",
    ),
    "lstm with a computed weight": cell("w"),
    "lstm with a computed recurrence": cell("r"),
    "lstm with a computed bias": cell("b"),
    "lstm with a computed peephole": cell("p"),
    "einsum heads behind their features": Net(
        "q0 = MatMul(x, w1) q = Reshape(q0, s) k0 = MatMul(x, w3) k = Reshape(k0, s) "
        'a = Einsum<equation="bndh,bmdh->bhnm">(q, k) v0 = MatMul(x, w4) v = Reshape(v0, s) '
        'o = Einsum<equation="bhnm,bmdh->bndh">(a, v) r = Reshape(o, u) y = MatMul(r, w2)',
        "float[3,8] w1, float[3,8] w3, float[3,8] w4, float[8,4] w2, int64[4] s = {0, 0, 2, 4}, "
        "int64[3] u = {0, 0, 8}",
        [4],
        **ROWS,
    ),
    "heads times one head": Net(
        "c = MatMul(x, w1) r = Reshape(c, s) h = Transpose<perm=[0,2,1,3]>(r) m = MatMul(h, z) "
        "t = Transpose<perm=[0,2,1,3]>(m) d = Reshape(t, u) y = MatMul(d, w2)",
        "float[3,8] w1, int64[4] s = {0, 0, 4, 2}, int64[3] u = {0, 0, 24}, float[24,4] w2",
        [4],
        inputs="float[n,5,3] x, float[n,1,2,6] z",
        outputs="float[n,o1,o2] y",
    ),
    "einsum sums an index of the weight": Net(
        'c = MatMul(x, w1) d = Einsum<equation="bnk,kmj->bnj">(c, w3) y = MatMul(d, w2)',
        "float[3,8] w1, float[8,2,6] w3, float[6,4] w2",
        [6, 8],
        **ROWS,
    ),
    "lstm with a cell from outside": Net(
        'h = LSTM<hidden_size=6>(x, w, r, b, "", h0, c0) s = Squeeze(h, one) y = MatMul(s, w2)',
        "float[1,24,3] w, float[1,24,6] r, float[1,48] b, float[1,2,6] h0, int64[1] one = {1}, "
        "float[6,4] w2",
        [],
        inputs="float[n,2,3] x, float[1,2,6] c0",
        outputs="float[n,2,4] y",
        reason="initial state",
    ),
    "fused attention of two long heads": Net(
        "q0 = MatMul(x, wq) q2 = Reshape(q0, s) q = Transpose<perm=[0,2,1,3]>(q2) "
        "k0 = MatMul(x, wk) k2 = Reshape(k0, s) k = Transpose<perm=[0,2,1,3]>(k2) "
        "v0 = MatMul(x, wv) v2 = Reshape(v0, s) v = Transpose<perm=[0,2,1,3]>(v2) "
        "o0 = Attention(q, k, v) o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, u) "
        "y = MatMul(o, wo)",
        "float[3,8] wq, float[3,8] wk, float[3,8] wv, float[8,3] wo, int64[4] s = {0, 0, 2, 4}, "
        "int64[3] u = {0, 0, 8}",
        [2],
        opset=23,
        **ROWS,
    ),
    "fused attention along units": rows(
        "t = Transpose<perm=[0,2,1]>(c) o = Attention<q_num_heads=1, kv_num_heads=1>(t, t, t) "
        "d = Transpose<perm=[0,2,1]>(o)",
        free=(),
        opset=23,
        reason="attention works along its axis",
    ),
    "gemm of inputs plus units": Net(
        "c = Gemm(x, w1) e = Gemm(x, z, c) y = MatMul(e, w2)",
        "float[3,8] w1, float[8,4] w2",
        [],
        inputs="float[n,3] x, float[3,8] z",
        outputs="float[n,4] y",
        reason="no units",
    ),
    "vector into units": Net(
        "c = MatMul(x, w1) d = Relu(c) y = MatMul(d, w2)",
        "float[3,8] w1, float[8,4] w2",
        [8],
        inputs="float[3] x",
        outputs="float[4] y",
    ),
    "rows of units times a vector": Net(
        "c = MatMul(x, w1) t = Transpose<perm=[0,2,1]>(c) r = Relu(t) m = MatMul(r, v) "
        "y = MatMul(m, w2)",
        "float[3,8] w1, float[5] v, float[8,4] w2",
        [8],
        inputs="float[n,5,3] x",
        outputs="float[n,4] y",
    ),
    "heads into a shared product": Net(
        "c = MatMul(x, w1) r = Reshape(c, s) m = MatMul(r, w3) d = Reshape(m, u) y = MatMul(d, w2)",
        "float[3,8] w1, int64[4] s = {0, 0, 2, 4}, float[4,6] w3, int64[3] u = {0, 0, 12}, "
        "float[12,4] w2",
        [2],
        **ROWS,
    ),
}
