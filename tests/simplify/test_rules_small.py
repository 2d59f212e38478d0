"""Rules that the larger patterns contain, each on its own."""

from __future__ import annotations

import pytest

from onnxlite.simplify import DEFAULT_RULES
from tests.simplify.test_rules_shapes import IMAGE, ROWS, ints

NORM = "g (float[N,5,8] x, float[8] s, float[8] b, float[8] a) => (float[N,5,8] y)"
ONES = "Constant<value = float[4] {1.0, 1.0, 1.0, 1.0}>()"

FIRES = [
    ("flatten-reshape", "g (float[N,4,2,2] x) => (float[N,16] y)"
     f" {{ {ints('s', 0, -1)} y = Reshape(x, s) }}", {"Flatten": 1}),
    ("fold-layernorm-affine", f"{NORM} {{ n = LayerNormalization(x, s) m = Mul(n, a)"
     " y = Add(m, b) }", {"LayerNormalization": 1}),
    ("fold-shape", "g (float[N,4,6,6] x) => (float[4,N,6,6] y) { s = Shape(x)"
     f" {ints('i', 1)} c = Gather(s, i) {ints('m', -1, 6, 6)} t = Concat<axis=0>(c, m)"
     " r = Reshape(x, t) y = Neg(r) }", {"Reshape": 1, "Neg": 1}),
    ("merge-gathers", "g (float[N,8] x) => (float[N,8] y)"
     f" {{ {ints('k', 0)} u = Unsqueeze(x, k) i = Constant<value = int64 {{0}}>()"
     " g1 = Gather(u, i) y = Relu(g1) }", {"Relu": 1}),
    ("merge-reshape-transpose", "g (float[N,2,7,8] x) => (float[N,2,8,7] y) {"
     f" {ints('a', -1, 7, 8)} {ints('b', -1, 2, 8, 7)} r = Reshape(x, a)"
     " t = Transpose<perm=[0,2,1]>(r) y = Reshape(t, b) }", {"Transpose": 1}),
    ("pool-flatten", "g (float[N,4,6,6] x) => (float[N,4] y)"
     f" {{ {ints('k', 2, 3)} p = GlobalAveragePool(x) y = Squeeze(p, k) }}",
     {"GlobalAveragePool": 1, "Flatten": 1}),
    ("remove-resize", f"{IMAGE} {{ f = {ONES} a = Relu(x) y = Resize(a, , f) }}", {"Relu": 1}),
    ("remove-transpose", f"{ROWS} {{ a = Relu(x) y = Transpose<perm=[0,1]>(a) }}", {"Relu": 1}),
    ("reuse-shape", "g (float[N,T] x, float[1] w) => (float[N,T] y) { s = Shape(x)"
     f" {ints('i', 0)} {ints('j', 1)} b = Gather(s, i) c = Gather(s, j)"
     " t = Concat<axis=0>(b, c) e = Expand(w, t) r = RandomNormalLike<seed=1.0>(e)"
     " z = Mul(r, e) q = Sub(z, z) y = Add(e, q) }", None),
]  # fmt: skip

DECLINES = [
    ("flatten-reshape", "g (float[N,4,2,2] x) => (float[N,4,4] y)"
     f" {{ {ints('s', 0, 4, -1)} y = Reshape(x, s) }}"),
    ("fold-layernorm-affine", "g (float[N,5,8] x, float[8] s, float[5,1] a) => (float[N,5,8] y)"
     " { n = LayerNormalization(x, s) y = Mul(n, a) }"),
    ("merge-gathers", "g (float[N,8] x) => (float[1,8] y)"
     f" {{ {ints('k', 1)} u = Unsqueeze(x, k) i = Constant<value = int64 {{0}}>()"
     " y = Gather(u, i) }"),
    ("pool-flatten", "g (float[N,4,6,6] x) => (float[N,4,1] y)"
     f" {{ {ints('k', 3)} p = GlobalAveragePool(x) y = Squeeze(p, k) }}"),
    ("remove-resize", "g (float[N,4,6,6] x) => (float[N,4,12,12] y)"
     " { f = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>() y = Resize(x, , f) }"),
    ("remove-transpose", "g (float[N,8] x) => (float[8,N] y) { y = Transpose(x) }"),
    ("reuse-shape", "g (float[N,T] x, float[1] w) => (float[T,N] y) { s = Shape(x)"
     f" {ints('i', 1)} {ints('j', 0)} b = Gather(s, i) c = Gather(s, j)"
     " t = Concat<axis=0>(b, c) y = Expand(w, t) }"),
    ("fold-shape", "g (float[N,T] x, float[1] w) => (float[N] y) { s = Shape(x)"
     f" {ints('i', 0)} b = Gather(s, i) y = Expand(w, b) }}"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "expected"), FIRES)
def test_rule_fires(simplified, rule, text, expected):
    result = simplified(text)
    assert rule in dict(result.report.changes.counts())
    if expected is not None:
        assert dict(result.operators) == expected
    assert result.difference < 1e-5


@pytest.mark.parametrize(("rule", "text"), DECLINES)
def test_rule_declines(simplified, rule, text):
    result = simplified(text)
    assert rule not in dict(result.report.changes.counts())
    assert result.difference < 1e-5


def test_every_rule_says_what_it_does():
    for rule in DEFAULT_RULES:
        assert "->" in rule.function.__doc__, rule.name
