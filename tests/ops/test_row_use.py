"""Which operators use a matrix row by row, and along which axis."""

from __future__ import annotations

import pytest

from onnxlite.model import load
from onnxlite.ops import row_use
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y) '


@pytest.mark.parametrize(
    ("body", "port", "expected"),
    [
        ("<float[4,4] w> { y = MatMul(x, w) }", 1, ("product", 1, None)),
        ("<float[4,4] w> { y = MatMul(w, x) }", 0, None),
        ("<float[4,4] w> { y = Gemm(x, w) }", 1, ("product", 1, None)),
        ("<float[4,4] w, float[4] b> { y = Gemm<transB=1>(x, w, b) }", 1, ("product", 0, 2)),
        ("<float[4,4] w> { y = Gemm<transA=1>(x, w) }", 1, None),
        ("<float[4,4] w> { y = Gemm<alpha=0.5>(x, w) }", 1, None),
        ("<float[9,4] w, int64[2] i = {0, 1}> { y = Gather(w, i) }", 0, ("lookup", 0, None)),
        ("<float[4,9] w, int64[4] i = {0, 1, 2, 3}> { y = Gather<axis=1>(w, i) }", 0, None),
        ("<float[4,4] w> { t = Transpose(w) y = MatMul(x, t) }", 0, ("transposed", 0, None)),
        ("<float[4,4] w> { t = Transpose(w) y = Add(x, t) }", 0, None),
        ("<float[4,4] w> { t = Transpose<perm=[0,1]>(w) y = MatMul(x, t) }", 0, None),
        ("<float[4,4] w> { y = Add(x, w) }", 1, None),
    ],
)
def test_row_use(body: str, port: int, expected: tuple[str, int, int | None] | None) -> None:
    node = load(parse(HEAD + body)).graph[0]
    found = row_use(node, port)
    assert (None if found is None else (found.kind, found.axis, found.addend)) == expected


def test_a_vector_times_a_matrix_has_no_rows() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y)
        <float[4,4] w> { y = MatMul(x, w) }"""
    assert row_use(load(parse(text)).graph[0], 1) is None


def test_products_behind_a_transpose() -> None:
    body = "<float[4,4] w> { t = Transpose(w) s = MatMul(x, t) y = MatMul(s, t) }"
    graph = load(parse(HEAD + body)).graph
    found = row_use(graph[0], 0)
    assert found is not None
    assert found.products == (graph[1], graph[2])
