"""Integers of fewer than 8 bits: packed in the file, and in the same kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxlite
from onnxlite.errors import OptionError
from onnxlite.evaluate import compare
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.options import WeightBits
from onnxlite.runtime import Session
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,16,8,8] x) => (float[n,16,8,8] y)
    <float[32,16,3,3] w, float[32] b, float[32,1,3,3] d, float[32] e, float[16,32,3,3] u>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
      s = Conv<pads=[1,1,1,1], group=32>(r, d, e)  q = Relu(s)
      y = Conv<pads=[1,1,1,1]>(q, u) }"""


@pytest.fixture
def net() -> onnx.ModelProto:
    return parse(NET)


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((32, 16, 8, 8), np.float32)


def fused(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """Operators that ONNX Runtime runs."""
    Session(load(model), threads=1, optimized_path=path)
    return Counter(node.op_type for node in load(path).graph)


@pytest.mark.parametrize("bits", [6, 4, 3])
def test_smaller_and_in_the_same_kernels(net, images, tmp_path: Path, bits: WeightBits):
    eight = quantize_static(net, images, placement="everything", equalize=False).model
    few = quantize_static(
        net, images, placement="everything", equalize=False, weight_bits=bits
    ).model
    assert few.ByteSize() < eight.ByteSize() * (bits + 2) / 8
    kernels = fused(few, tmp_path / "few.onnx")
    assert kernels["QLinearConv"] == fused(eight, tmp_path / "eight.onnx")["QLinearConv"] == 3
    assert not kernels["BitShift"]
    loss = compare(net, eight, samples=images).sqnr_db - compare(net, few, samples=images).sqnr_db
    assert 0 < loss < 6 * (8 - bits) + 3


def test_layers_of_few_summands_keep_8_bits(net, images):
    few = load(quantize_static(net, images, placement="everything", weight_bits=4).model)
    arrays = [const_array(v) for v in few.graph.initializers.values()]
    whole = [a.shape for a in arrays if a is not None and a.dtype == np.int8 and a.ndim == 4]
    assert whole == [(32, 1, 3, 3)]


def test_as_a_step(net, images):
    recipe = onnxlite.Recipe((onnxlite.QuantizeStatic(weight_bits=4, placement="everything"),))
    assert onnxlite.Recipe.from_toml(recipe.to_toml()) == recipe
    outcome = onnxlite.run(net, recipe, samples=images, benchmark=False)
    assert outcome.report.steps[0].changes.weights_packed == 2


def test_other_widths_are_refused(net, images):
    with pytest.raises(OptionError, match="weight_bits=5"):
        quantize_static(net, images, weight_bits=5)
