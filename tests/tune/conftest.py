"""A small residual net and its inputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.odd_models import parse


@pytest.fixture
def net() -> onnx.ModelProto:
    """Two convolutions with a skip, pooled to four scores."""
    return parse(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[n,3,8,8] x) => (float[n,4] y)
        <float[16,3,3,3] w, float[16] b, float[16,16,3,3] u, float[16] c, float[16,4] v>
        { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
          s = Conv<pads=[1,1,1,1]>(r, u, c)  a = Add(r, s)  q = Relu(a)
          p = GlobalAveragePool(q)  f = Flatten(p)  y = MatMul(f, v) }"""
    )


@pytest.fixture
def images() -> NDArray[np.float32]:
    """Inputs to tune on."""
    return np.random.default_rng(0).standard_normal((160, 3, 8, 8), np.float32)


@pytest.fixture
def fresh() -> NDArray[np.float32]:
    """Inputs to compare on."""
    return np.random.default_rng(1).standard_normal((64, 3, 8, 8), np.float32)
