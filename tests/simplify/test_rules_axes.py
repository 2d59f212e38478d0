"""Transposes between reshapes, and recurrent layers with states of zeros."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxlite.model import clone
from onnxlite.simplify import simplify
from tests.simplify.conftest import build, difference, operators
from tests.simplify.test_rules_shapes import ints


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # batched transpose, as the exporter writes it
            "g (float[N,2,7,8] x) => (float[N,2,8,7] y) {"
            f" {ints('a', -1, 7, 8)} {ints('b', -1, 2, 8, 7)} r = Reshape(x, a)"
            " t = Transpose<perm=[0,2,1]>(r) y = Reshape(t, b) }",
            {"Transpose": 1},
        ),
        (  # heads split off in two steps
            "g (float[7,N,16] x) => (float[N,2,7,8] y) {"
            f" {ints('a', 7, -1, 8)} {ints('b', -1, 2, 7, 8)} r = Reshape(x, a)"
            " t = Transpose<perm=[1,0,2]>(r) y = Reshape(t, b) }",
            {"Reshape": 1, "Transpose": 1},
        ),
        (  # channel shuffle needs all three
            "g (float[N,4,3] x) => (float[N,4,3] y) {"
            f" {ints('a', 0, 2, 2, 3)} {ints('b', 0, 4, 3)} r = Reshape(x, a)"
            " t = Transpose<perm=[0,2,1,3]>(r) y = Reshape(t, b) }",
            {"Reshape": 2, "Transpose": 1},
        ),
    ],
)
def test_transpose_between_reshapes(simplified, text, expected):
    result = simplified(text)
    assert dict(result.operators) == expected
    assert result.difference == 0


def grouped(draw: st.DrawFn, sizes: list[str | int]) -> list[int]:
    """Neighbouring sizes multiplied at random; -1 for a product with the batch."""
    groups: list[list[str | int]] = [[sizes[0]]]
    for size in sizes[1:]:
        if draw(st.booleans()):
            groups[-1].append(size)
        else:
            groups.append([size])
    return [-1 if "N" in group else prod(int(s) for s in group) for group in groups]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_reshapes_around_a_transpose(data):
    sizes: list[str | int] = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    sizes.insert(data.draw(st.integers(0, len(sizes))), "N")
    order = data.draw(st.permutations(range(len(sizes))))
    moved = [sizes[i] for i in order]
    source = ",".join(map(str, sizes))
    middle = [-1 if size == "N" else int(size) for size in sizes]
    target = grouped(data.draw, moved)
    names = ",".join(f"D{i}" for i in range(len(target)))
    model = build(
        f"g (float[{source}] x) => (float[{names}] y) {{ {ints('a', *grouped(data.draw, sizes))}"
        f" {ints('m', *middle)} {ints('b', *target)} q = Reshape(x, a) r = Reshape(q, m)"
        f" t = Transpose<perm=[{','.join(map(str, order))}]>(r) y = Reshape(t, b) }}"
    )
    result, report = simplify(clone(model), onnxsim=False)
    assert not [d for d in report.skipped if "internal" in d.message or "rolled" in d.message]
    assert difference(model, result) == 0
    assert sum(operators(result).values()) <= 3


ZEROS = (
    "g (float[5,N,3] x, float[1,16,3] w, float[1,16,4] r) => (float[5,1,N,4] y)"
    f" {{ s = Shape(x) {ints('i', 1)} b = Gather(s, i) {ints('o', 1)} {ints('h', 4)}"
    " k = Concat<axis=0>(o, b, h) z = ConstantOfShape{}(k)"
    " y, p, q = LSTM<hidden_size=4>(x, w, r, , , z, z) }"
)


def test_states_of_zeros_are_dropped(simplified):
    result = simplified(ZEROS.replace("{}", ""))
    assert dict(result.operators) == {"LSTM": 1}
    assert result.report.changes.rewrites["drop-zero-state"] == 1
    assert result.difference == 0


def test_states_of_ones_stay(simplified):
    result = simplified(ZEROS.replace("{}", "<value = float[1] {1.0}>"))
    assert "drop-zero-state" not in result.report.changes.rewrites
    assert result.difference == 0


def test_slices_become_a_split_below_opset_13(simplified):
    text = (
        "g (float[N,8] x) => (float[N,4] y) {"
        f" {ints('s', 0)} {ints('m', 4)} {ints('e', 8)} {ints('k', 1)} a = Slice(x, s, m, k)"
        " b = Slice(x, m, e, k) y = Sub(a, b) }"
    )
    result = simplified(text, opset=11)
    assert dict(result.operators) == {"Split": 1, "Sub": 1}
    assert result.difference == 0
