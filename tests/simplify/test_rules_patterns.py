"""Activations, normalisations and pooling, written out by exporters and put back."""

from __future__ import annotations

import pytest

IMAGE = "g (float[N,4,6,6] x) => (float[N,4,6,6] y)"
ROWS = "g (float[N,8] x) => (float[N,8] y)"


def const(name: str, number: str, shape: str = "float") -> str:
    return f"{name} = Constant<value = {shape} {{{number}}}>()"


THREE, SIX, ZERO = const("three", "3.0"), const("six", "6.0"), const("zero", "0.0")
HALF, ONE, ROOT2 = const("half", "0.5"), const("one", "1.0"), const("root", "1.4142135")

FIRES = [
    (
        "fuse-hardswish",
        f"{IMAGE} {{ {THREE} {SIX} {ZERO} a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b)"
        " y = Div(c, six) }",
        {"HardSwish": 1},
    ),
    (
        "fuse-hardswish",
        f"{IMAGE} {{ {THREE} {SIX} {ZERO} a = Add(x, three) b = Clip(a, zero, six)"
        " c = Div(b, six) y = Mul(c, x) }",
        {"HardSwish": 1},
    ),
    (
        "fuse-hardswish",
        f"{IMAGE} {{ a = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, a) }}",
        {"HardSwish": 1},
    ),
    (
        "fuse-hardsigmoid",
        f"{IMAGE} {{ {THREE} {SIX} {ZERO} a = Add(three, x) b = Clip(a, zero, six)"
        " y = Div(b, six) }",
        {"HardSigmoid": 1},
    ),
    (
        "fuse-gelu",
        f"{ROWS} {{ {HALF} {ONE} {ROOT2} a = Div(x, root) b = Erf(a) c = Add(b, one)"
        " d = Mul(x, c) y = Mul(d, half) }",
        {"Gelu": 1},
    ),
    (
        "fuse-gelu",
        f"{ROWS} {{ {HALF} {ONE} {ROOT2} a = Div(x, root) b = Erf(a) c = Add(one, b)"
        " d = Mul(half, x) y = Mul(d, c) }",
        {"Gelu": 1},
    ),
    (
        "fuse-sigmoid",
        f"{ROWS} {{ {ONE} a = Neg(x) b = Exp(a) c = Add(b, one) y = Div(x, c) }}",
        {"Sigmoid": 1, "Mul": 1},
    ),
    (
        "fuse-sigmoid",
        f"{ROWS} {{ {ONE} a = Neg(x) b = Exp(a) c = Add(one, b) y = Reciprocal(c) }}",
        {"Sigmoid": 1},
    ),
    ("fuse-softplus", f"{ROWS} {{ {ONE} a = Exp(x) b = Add(a, one) y = Log(b) }}", {"Softplus": 1}),
    ("fuse-mish", f"{ROWS} {{ a = Softplus(x) b = Tanh(a) y = Mul(x, b) }}", {"Mish": 1}),
    ("merge-clips", f"{IMAGE} {{ {SIX} {ONE} a = Relu(x) y = Clip(a, one, six) }}", {"Clip": 1}),
    ("merge-clips", f"{IMAGE} {{ {ZERO} y = Clip(x, zero) }}", {"Relu": 1}),
    ("minmax-to-clip", f"{IMAGE} {{ {SIX} {ZERO} a = Max(x, zero) y = Min(a, six) }}", {"Clip": 1}),
    (
        "prelu-to-leakyrelu",
        f"{IMAGE} {{ s = Constant<value = float[1] {{0.25}}>() y = PRelu(x, s) }}",
        {"LeakyRelu": 1},
    ),
    (
        "fuse-layernorm",
        "g (float[N,5,8] x, float[8] s, float[8] b) => (float[N,5,8] y) {"
        " axes = Constant<value = int64[1] {-1}>() two = Constant<value = float {2.0}>()"
        " eps = Constant<value = float {0.00001}>() m = ReduceMean(x, axes) d = Sub(x, m)"
        " p = Pow(d, two) q = ReduceMean(p, axes) r = Add(q, eps) t = Sqrt(r) n = Div(d, t)"
        " o = Mul(n, s) y = Add(o, b) }",
        {"LayerNormalization": 1},
    ),
    (
        "mean-to-pool",
        "g (float[N,4,6,6] x) => (float[N,4,1,1] y)"
        " { a = Constant<value = int64[2] {-1, -2}>() y = ReduceMean(x, a) }",
        {"GlobalAveragePool": 1},
    ),
    (
        "pool-to-global",
        "g (float[N,4,6,6] x) => (float[N,4,1,1] y) { y = AveragePool<kernel_shape=[6,6]>(x) }",
        {"GlobalAveragePool": 1},
    ),
    (
        "fold-pad",
        "g (float[N,3,6,6] x, float[4,3,3,3] w) => (float[N,4,9,8] y) {"
        " p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 2, 1}>() a = Pad(x, p)"
        " y = Conv<pads=[1,1,1,1]>(a, w) }".replace("9,8", "9,8"),
        {"Conv": 1},
    ),
]  # fmt: skip

DECLINES = [
    (
        "fuse-hardswish", "opset 14", 13,
        f"{IMAGE} {{ {THREE} {SIX} {ZERO} a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b)"
        " y = Div(c, six) }",
    ),
    (
        "fuse-gelu", "opset 20", 17,
        f"{ROWS} {{ {HALF} {ONE} {ROOT2} a = Div(x, root) b = Erf(a) c = Add(b, one)"
        " d = Mul(x, c) y = Mul(d, half) }",
    ),
    (
        "fuse-gelu", None, 21,  # another factor than 0.5
        f"{ROWS} {{ {ONE} {ROOT2} a = Div(x, root) b = Erf(a) c = Add(b, one) y = Mul(x, c) }}",
    ),
    (
        "fuse-hardsigmoid", None, 21,  # Clip(x + 3, 0, 6) / 3
        f"{IMAGE} {{ {THREE} {SIX} {ZERO} a = Add(x, three) b = Clip(a, zero, six)"
        " y = Div(b, three) }",
    ),
    (
        "fuse-layernorm", "opset 17", 13,
        "g (float[N,5,8] x) => (float[N,5,8] y) { two = Constant<value = float {2.0}>()"
        " eps = Constant<value = float {0.00001}>() m = ReduceMean<axes=[-1]>(x) d = Sub(x, m)"
        " p = Pow(d, two) q = ReduceMean<axes=[-1]>(p) r = Add(q, eps) t = Sqrt(r) y = Div(d, t) }",
    ),
    (
        "mean-to-pool", None, 21,  # pooling would take one node more
        "g (float[N,4,6,6] x) => (float[N,4] y)"
        " { a = Constant<value = int64[2] {2, 3}>() y = ReduceMean<keepdims=0>(x, a) }",
    ),
    (
        "mean-to-pool", None, 21,  # a mean over channels
        "g (float[N,4,6,6] x) => (float[N,1,6,6] y)"
        " { a = Constant<value = int64[1] {1}>() y = ReduceMean(x, a) }",
    ),
    (
        "fold-pad", "batch or channels", 21,
        "g (float[N,3,6,6] x, float[4,4,3,3] w) => (float[N,4,4,4] y) {"
        " p = Constant<value = int64[8] {0, 1, 0, 0, 0, 0, 0, 0}>() a = Pad(x, p) y = Conv(a, w) }",
    ),
    (
        "fold-pad", None, 21,  # pads with ones
        "g (float[N,3,6,6] x, float[4,3,3,3] w) => (float[N,4,6,6] y) {"
        " p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()"
        f" {ONE} a = Pad(x, p, one) y = Conv(a, w) }}",
    ),
    ("merge-clips", None, 21, f"{IMAGE} {{ a = Relu(x) b = Abs(a) y = Add(a, b) }}"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), FIRES)
def test_rule_fires(simplified, rule, text, expected):
    result = simplified(text)
    assert dict(result.operators) == expected
    assert rule in dict(result.report.changes.counts())
    assert result.difference < 1e-5


@pytest.mark.parametrize(("rule", "reason", "opset", "text"), DECLINES)
def test_rule_declines(simplified, rule, reason, opset, text):
    result = simplified(text, opset=opset)
    assert rule not in dict(result.report.changes.counts())
    skipped = {d.what: d.message for d in result.report.skipped}
    assert reason is None or reason in skipped[rule]
    assert result.difference < 1e-5
