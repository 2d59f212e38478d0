"""Rows of features times the matrix are the layer's output, for every way to multiply."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.ops.linear_layer import find_layers
from onnxlite.runtime import Session
from tests.odd_models import parse

SIGNATURE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[%s] x) => (float%s y) <float[%s] w%s> { y = %s }"""

CASES = {
    "conv": ("2,3,7,6", "4,3,3,3", "Conv(x, w)"),
    "conv padded": ("2,3,7,6", "4,3,3,2", "Conv<pads=[1,0,2,1]>(x, w)"),
    "conv strided dilated": (
        "2,3,11,9",
        "4,3,3,2",
        "Conv<pads=[1,2,1,0], strides=[2,3], dilations=[2,1]>(x, w)",
    ),
    "conv same upper": ("2,3,8,7", "4,3,2,3", 'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)'),
    "conv same lower": ("2,3,8,7", "4,3,2,4", 'Conv<auto_pad="SAME_LOWER", strides=[1,2]>(x, w)'),
    "conv grouped": ("2,6,5,5", "4,3,3,3", "Conv<group=2, pads=[1,1,1,1]>(x, w)"),
    "conv depthwise": ("2,4,5,5", "8,1,3,3", "Conv<group=4>(x, w)"),
    "conv 1-d": ("2,3,9", "4,3,3", "Conv<strides=[2]>(x, w)"),
    "conv 3-d": ("2,3,4,5,4", "4,3,2,3,2", "Conv<pads=[0,1,0,0,1,0]>(x, w)"),
    "transposed": ("2,3,5,4", "3,4,3,2", "ConvTranspose<strides=[2,3]>(x, w)"),
    "transposed padded": (
        "2,3,5,4",
        "3,4,3,3",
        "ConvTranspose<strides=[2,2], pads=[1,0,1,1], dilations=[1,2], output_padding=[1,0]>(x, w)",
    ),
    "transposed grouped": ("2,6,5,4", "6,2,3,3", "ConvTranspose<group=3>(x, w)"),
    "gemm": ("5,3", "3,4", "Gemm(x, w)"),
    "gemm scaled": ("3,5", "4,3", "Gemm<transA=1, transB=1, alpha=0.5>(x, w)"),
    "matmul": ("2,5,3", "3,4", "MatMul(x, w)"),
    "matmul left": ("2,3,5", "4,3", "MatMul(w, x)"),
}


@pytest.mark.parametrize("name", CASES)
def test_features_times_matrix(name: str) -> None:
    data, weight, node = CASES[name]
    model = load(parse(SIGNATURE % (data, _any(data, node), weight, "", node)))
    normalize(model)
    ((layer,), skipped) = find_layers(model)
    assert skipped == []
    x = np.random.default_rng(1).standard_normal([int(d) for d in data.split(",")])
    x = x.astype(np.float32)
    y = Session(model).run({"x": x})["y"]
    moved = np.moveaxis(y, layer.geometry.channel_axis, -1)
    positions = np.unravel_index(np.arange(moved[..., 0].size), moved.shape[:-1])
    groups, features, outputs = layer.matrix_shape
    rows = layer.geometry.features(x, positions)
    assert rows.shape == (len(positions[0]), groups, features)
    product = np.einsum("ngk,gkm->ngm", rows, layer.matrix)
    expected = moved[positions].reshape(-1, groups, outputs)
    np.testing.assert_allclose(product, expected, atol=1e-4)
    assert layer.geometry.reaches(x.shape, moved.shape[:-1])
    assert layer.geometry.grid(x.shape) == moved.shape[:-1]
    array = const_array(layer.weight)
    back = layer.geometry.tensor(layer.geometry.matrix(array))
    assert np.array_equal(back, array)


def _any(data: str, node: str) -> str:
    rank = 2 if node.startswith("Gemm") else data.count(",") + 1
    return "[" + ",".join("abcde"[:rank]) + "]"
