"""Quantization arithmetic: properties that hold for every tensor and range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxlite.calibrate import Range
from onnxlite.quantize.core.qtypes import (
    INT8,
    UINT8,
    QType,
    dequantize,
    params_for_range,
    params_for_weight,
    quantize,
)

_FLOATS = st.floats(-1e4, 1e4, width=32)
_ARRAYS = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=_FLOATS)


@given(_ARRAYS, st.sampled_from([UINT8, INT8, QType(8, signed=True, symmetric=False)]))
def test_error_is_at_most_half_a_step_inside_the_range(array: np.ndarray, qtype: QType) -> None:
    params = params_for_range(qtype, Range(float(array.min()), float(array.max())))
    error = np.abs(dequantize(quantize(array, params), params) - array)
    # Rounding the zero point shifts the grid by up to half a step at the ends.
    slack = 1.0 if not qtype.symmetric else 0.5
    assert (error <= float(params.scale) * slack * (1 + 1e-4) + 1e-30).all()


@given(_ARRAYS, st.sampled_from([None, 0, 1]))
def test_weight_error_is_at_most_half_a_step(array: np.ndarray, axis: int | None) -> None:
    params = params_for_weight(INT8, array, axis)
    error = np.abs(dequantize(quantize(array, params), params) - array)
    scale = (
        params.scale if axis is None else params.scale.reshape([-1, 1] if axis == 0 else [1, -1])
    )
    assert (error <= scale * 0.5 * (1 + 1e-4) + np.abs(array) * 1e-6).all()


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_zero_is_exact(a: float, b: float) -> None:
    params = params_for_range(UINT8, Range(min(a, b), max(a, b)))
    assert dequantize(quantize(np.zeros(1, np.float32), params), params)[0] == 0


def test_relu_range_has_its_zero_point_at_the_end() -> None:
    params = params_for_range(UINT8, Range(0.0, 6.0))
    assert int(params.zero_point) == 0
    assert float(params.scale) == pytest.approx(6 / 255)
    assert params.represented.high == pytest.approx(6.0)


def test_dead_channel_and_empty_range_are_exact() -> None:
    params = params_for_weight(INT8, np.array([[0.0, 0.0], [1.0, -2.0]], np.float32), 0)
    assert params.scale[0] == 1
    assert float(params_for_range(UINT8, Range(0.0, 0.0)).scale) == 1


@pytest.mark.parametrize(
    ("qtype", "low", "high"),
    [
        (UINT8, 0, 255),
        (INT8, -127, 127),
        (QType(8, signed=True, symmetric=False), -128, 127),
        (QType(4, signed=True, symmetric=True), -7, 7),
        (QType(16, signed=False, symmetric=False), 0, 65535),
    ],
)
def test_limits(qtype: QType, low: int, high: int) -> None:
    assert (qtype.qmin, qtype.qmax) == (low, high)
