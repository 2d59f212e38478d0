"""What transformers need: factors behind a projection, class tokens."""

from __future__ import annotations

HEADS = (
    " r = Constant<value = int64[5] {0, 5, 3, 2, 4}>() p = Reshape(q, r)"
    " t = Transpose<perm=[2,0,3,1,4]>(p) zero = Constant<value = int64 {0}>()"
    " one = Constant<value = int64 {1}>() two = Constant<value = int64 {2}>()"
    " qs = Gather(t, zero) ks = Gather(t, one) vs = Gather(t, two)"
    " kt = Transpose<perm=[0,1,3,2]>(ks) half = Constant<value = float {0.5}>()"
)
JOINT = (
    "g (float[N,5,8] x, float[8,24] w, float[24] b) => (float[N,2,5,4] y)"
    " { m = MatMul(x, w) q = Add(b, m)" + HEADS
)


def test_score_factor_goes_into_the_query_weights(simplified):
    result = simplified(
        JOINT + " s = MatMul(qs, kt) d = Mul(s, half) a = Softmax(d) y = MatMul(a, vs) }"
    )
    assert result.report.changes.rewrites["fold-scale-upstream"] == 1
    assert result.operators["Mul"] == 0
    assert result.difference < 1e-5


def test_query_factor_goes_into_the_query_weights(simplified):
    result = simplified(
        JOINT + " d = Div(qs, half) s = MatMul(d, kt) a = Softmax(s) y = MatMul(a, vs) }"
    )
    assert result.report.changes.rewrites["fold-scale-upstream"] == 1
    assert result.operators["Div"] == 0
    assert result.difference < 1e-5


def test_factor_stays_when_the_query_has_another_reader(simplified):
    result = simplified(
        JOINT + " d = Mul(qs, half) s = MatMul(d, kt) a = Softmax(s) c = MatMul(a, vs)"
        " y = Add(c, qs) }"
    )
    assert "fold-scale-upstream" not in result.report.changes.rewrites
    assert result.difference < 1e-5


def test_factor_stays_when_the_joint_projection_has_another_reader(simplified):
    result = simplified(
        JOINT + " d = Mul(qs, half) s = MatMul(d, kt) a = Softmax(s) c = MatMul(a, vs)"
        " k = Constant<value = int64[4] {0, 1, 2, 3}>() u = ReduceSum<keepdims=0>(p, k)"
        " y = Add(c, u) }"
    )
    assert "fold-scale-upstream" not in result.report.changes.rewrites
    assert result.difference < 1e-5


TOKEN = (
    "g (float[N,3,4] x, float[1,1,4] w, float[1,4,4] b) => (float[N,4,4] y) { s = Shape(x)"
    " i = Constant<value = int64[1] {0}>() m = Constant<value = int64[2] {1, 4}>()"
    " n = Gather(s, i) e = Concat<axis=0>(n, m) t = Expand(w, e)"
)


def test_class_token_becomes_padding(simplified):
    result = simplified(TOKEN + " c = Concat<axis=1>(t, x) y = Add(c, b) }")
    assert dict(result.operators) == {"Pad": 1, "Add": 1}
    assert result.report.changes.rewrites["token-to-pad"] == 1
    assert result.difference == 0


def test_last_token_becomes_padding(simplified):
    result = simplified(TOKEN + " c = Concat<axis=1>(x, t) y = Add(c, b) }")
    assert dict(result.operators) == {"Pad": 1, "Add": 1}
    assert result.difference == 0


def test_token_without_embedding_stays(simplified):
    result = simplified(TOKEN + " c = Concat<axis=1>(t, x) y = Relu(c) }")
    assert "token-to-pad" not in result.report.changes.rewrites
    assert result.difference == 0
