"""Constants and BatchNormalization folded into convolutions and matrix products."""

from __future__ import annotations

import pytest

BN = "BatchNormalization"

FIRES = [
    (
        "fold-batchnorm",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] b, float[4] s, float[4] t, float[4] m,"
        " float[4] v) => (float[N,4,6,6] y) { c = Conv(x, w, b)"
        " y = BatchNormalization(c, s, t, m, v) }",
        {"Conv": 1},
    ),
    (
        "fold-batchnorm",
        "g (float[N,4,5,5] x, float[4,3,3,3] w, float[6] s, float[6] t, float[6] m, float[6] v)"
        " => (float[N,6,7,7] y) { c = ConvTranspose<group=2>(x, w)"
        " y = BatchNormalization(c, s, t, m, v) }",
        {"ConvTranspose": 1},
    ),
    (
        "fold-batchnorm",
        "g (float[N,4] x, float[5,4] w, float[5] b, float[5] s, float[5] t, float[5] m, float[5] v)"
        " => (float[N,5] y) { c = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)"
        " y = BatchNormalization(c, s, t, m, v) }",
        {"Gemm": 1},
    ),
    (
        "fold-batchnorm",
        "g (float[N,4] x, float[4,5] w, float[5] s, float[5] t, float[5] m, float[5] v)"
        " => (float[N,5] y) { c = MatMul(x, w) y = BatchNormalization(c, s, t, m, v) }",
        {"Gemm": 1},
    ),
    (
        "fold-batchnorm-backward",
        "g (float[N,4,8,8] x, float[6,2,3,3] w, float[4] s, float[4] t, float[4] m, float[4] v)"
        " => (float[N,6,6,6] y) { c = BatchNormalization(x, s, t, m, v) y = Conv<group=2>(c, w) }",
        {"Conv": 1},
    ),
    (
        "fold-batchnorm-backward",
        "g (float[N,4] x, float[5,4] w, float[5] b, float[4] s, float[4] t, float[4] m, float[4] v)"
        " => (float[N,5] y) { c = BatchNormalization(x, s, t, m, v)"
        " y = Gemm<transB=1, alpha=0.5, beta=2.0>(c, w, b) }",
        {"Gemm": 1},
    ),
    (
        "fold-constant",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[1,4,1,1] s, float[4,1,1] b)"
        " => (float[N,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w) d = Mul(c, s) y = Sub(d, b) }",
        {"Conv": 1},
    ),
    (
        "fold-constant",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] b, float[4,1,1] v) => (float[N,4,6,6] y)"
        " { c = Conv(x, w, b) d = Div(c, v) y = Sub(v, d) }",
        {"Conv": 1},
    ),
    (
        "fold-constant",
        "g (float[N,7,4] x, float[4,5] w, float[5] s) => (float[N,7,5] y)"
        " { c = MatMul(x, w) y = Mul(c, s) }",
        {"MatMul": 1},
    ),
    (
        "fold-constant-backward",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[1,3,1,1] s) => (float[N,4,8,8] y)"
        " { c = Mul(x, s) y = Conv<pads=[1,1,1,1]>(c, w) }",
        {"Conv": 1},
    ),
    (
        "fold-constant-backward",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[3,1,1] b) => (float[N,4,6,6] y)"
        " { c = Sub(x, b) y = Conv(c, w) }",
        {"Conv": 1},
    ),
    (
        "fold-constant-backward",
        "g (float[N,7,4] x, float[4,5] w, float[4] v) => (float[N,7,5] y)"
        " { c = Div(x, v) y = MatMul(c, w) }",
        {"MatMul": 1},
    ),
    (
        "fold-scale-before-bias",
        "g (float[N,7,4] x, float[4,5] w, float[5] b, float s) => (float[N,7,5] y)"
        " { c = MatMul(x, w) d = Add(b, c) y = Mul(d, s) }",
        {"MatMul": 1, "Add": 1},
    ),
    (
        "matmul-add-to-gemm",
        "g (float[N,4] x, float[4,5] x1, float[5] b) => (float[N,5] y)"
        " { c = MatMul(x, x1) y = Add(b, c) }",
        {"Gemm": 1},
    ),
    (
        "fold-transpose-into-gemm",
        "g (float[4,N] x, float[4,5] w, float[5] b) => (float[N,5] y)"
        " { c = Transpose<perm=[1,0]>(x) y = Gemm(c, w, b) }",
        {"Gemm": 1},
    ),
    (
        "merge-batchnorm",
        "g (float[N,4,8,8] x, float[4] s, float[4] t, float[4] m, float[4] v, float[4,1,1] a,"
        " float[1,4,1,1] b) => (float[N,4,8,8] y)"
        " { c = BatchNormalization(x, s, t, m, v) d = Mul(c, a) e = Add(d, b) y = Relu(e) }",
        {BN: 1, "Relu": 1},
    ),
    (
        "merge-batchnorm",
        "g (float[N,4,8,8] x, float[4] s, float[4] t, float[4] m, float[4] v, float[4,1,1] a)"
        " => (float[N,4,8,8] y) { c = Sub(x, a)"
        " d = BatchNormalization(c, s, t, m, v) y = Relu(d) }",
        {BN: 1, "Relu": 1},
    ),
    (
        "merge-affine",
        "g (float[N,4] x, float[4] a, float[1,4] b) => (float[N,4] y)"
        " { c = Add(x, a) d = Sub(c, b) y = Relu(d) }",
        {"Add": 1, "Relu": 1},
    ),
    (
        "merge-affine",
        "g (float[N,4] x, float a, float[4] v) => (float[N,4] y)"
        " { c = Mul(a, x) d = Div(c, v) y = Relu(d) }",
        {"Mul": 1, "Relu": 1},
    ),
]  # fmt: skip

DECLINES = [
    (
        "fold-batchnorm-backward", "pads with zeros",
        "g (float[N,4,8,8] x, float[6,4,3,3] w, float[4] s, float[4] t, float[4] m, float[4] v)"
        " => (float[N,6,8,8] y) { c = BatchNormalization(x, s, t, m, v)"
        " y = Conv<pads=[1,1,1,1]>(c, w) }",
    ),
    (
        "fold-constant-backward", "pads with zeros",
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float b) => (float[N,4,8,8] y)"
        " { c = Add(x, b) y = Conv<auto_pad=\"SAME_UPPER\">(c, w) }",
    ),
    (
        "fold-constant", "shared with another node",
        "g (float[N,3,8,8] x, float[3,3,1,1] w, float s) => (float[N,3,8,8] y)"
        " { c = Conv(x, w) d = Mul(c, s) y = Conv(d, w) }",
    ),
    (
        "fold-constant", None,  # varies over space
        "g (float[N,3,8,8] x, float[3,3,1,1] w, float[8,8] s) => (float[N,3,8,8] y)"
        " { c = Conv(x, w) y = Mul(c, s) }",
    ),
    (
        "fold-constant", None,  # one channel, broadcast to four
        "g (float[N,3,8,8] x, float[1,3,1,1] w, float[4,1,1] s) => (float[N,4,8,8] y)"
        " { c = Conv(x, w) y = Mul(c, s) }",
    ),
    (
        "fold-constant", None,  # the convolution's result is read twice
        "g (float[N,3,8,8] x, float[3,3,1,1] w, float s) => (float[N,3,8,8] y)"
        " { c = Conv(x, w) d = Mul(c, s) y = Add(c, d) }",
    ),
    (
        "fold-constant", None,  # a bias per row, not per column
        "g (float[5,4] x, float[5,4] w, float[5,1] b, float s) => (float[5,5] y)"
        " { c = Gemm<transB=1>(x, w, b) y = Mul(c, s) }",
    ),
    (
        "fold-batchnorm", None,  # training mode
        "g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] s, float[4] t, float[4] m, float[4] v)"
        " => (float[N,4,6,6] y, float[4] z, float[4] q) { c = Conv(x, w)"
        " y, z, q = BatchNormalization<training_mode=1>(c, s, t, m, v) }",
    ),
    (
        "matmul-add-to-gemm", None,  # rank 3
        "g (float[N,7,4] x, float[4,5] w, float[5] b) => (float[N,7,5] y)"
        " { c = MatMul(x, w) y = Add(b, c) }",
    ),
    (
        "merge-affine", None,  # the merged constant would be an outer sum
        "g (float[N,4,5] x, float[4,1] a, float[5] b) => (float[N,4,5] y)"
        " { c = Add(x, a) y = Add(c, b) }",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), FIRES)
def test_rule_fires(simplified, rule, text, expected):
    result = simplified(text)
    assert dict(result.operators) == expected
    assert rule in dict(result.report.changes.counts())
    assert result.difference < 1e-5


@pytest.mark.parametrize(("rule", "reason", "text"), DECLINES)
def test_rule_declines(simplified, rule, reason, text):
    result = simplified(text)
    assert rule not in dict(result.report.changes.counts())
    skipped = {d.what: d.message for d in result.report.skipped}
    assert reason is None or reason in skipped[rule]
    assert result.difference < 1e-5
