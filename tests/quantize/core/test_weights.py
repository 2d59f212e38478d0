"""Pairs of weights: bounded where an int16 kernel would saturate, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxlite.quantize.core.qtypes import INT8, QType, dequantize
from onnxlite.quantize.core.weights import quantize_weight

_WEIGHTS = arrays(np.float32, (3, 4, 2, 2), elements=st.floats(-1, 1, width=32))


def pair_sums(integers: np.ndarray) -> np.ndarray:
    """Sums of same-sign neighbours in the order kernel position, input channel."""
    flat = integers.astype(int).transpose(2, 3, 1, 0).reshape(-1, integers.shape[0])
    a, b = flat[0::2], flat[1::2]
    return np.where(np.sign(a) * np.sign(b) > 0, np.abs(a) + np.abs(b), 0)


@given(_WEIGHTS)
def test_no_pair_can_overflow_int16(weight: np.ndarray) -> None:
    integers, _ = quantize_weight(
        weight, INT8, channel_axis=0, reduction_axes=(2, 3, 1), avoid_saturation=True
    )
    assert pair_sums(integers).max() * 255 <= 32767
    assert np.abs(integers.astype(int)).max() <= 127


def test_costs_far_less_than_a_bit_less_for_every_weight() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 32, 3, 3)).astype(np.float32)

    def noise(qtype: QType, *, avoid: bool) -> float:
        integers, params = quantize_weight(
            weight, qtype, channel_axis=0, reduction_axes=(2, 3, 1), avoid_saturation=avoid
        )
        return float(((dequantize(integers, params) - weight) ** 2).sum())

    seven_bits = noise(QType(7, signed=True, symmetric=True), avoid=False)
    assert noise(INT8, avoid=True) < 0.5 * seven_bits


def test_an_overflowing_pair_is_shared_out() -> None:
    weight = np.array([[1.0, 1.0, -1.0, 1.0]], np.float32)
    integers, params = quantize_weight(
        weight, INT8, channel_axis=0, reduction_axes=(1,), avoid_saturation=True
    )
    first, second, third, fourth = integers[0].astype(int)
    assert first + second <= 128
    assert third < 0 < fourth
    assert dequantize(integers, params) == pytest.approx(weight, abs=0.35)
