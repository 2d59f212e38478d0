"""Factors of channels, told from values: found where there are some, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.evaluate.channel_scales import ChannelScales

FACTORS = np.array([1.0, 8.0, 0.25, 2.0])


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((16, 4, 5, 5)).astype(np.float32)


def found(reference: np.ndarray, candidate: np.ndarray, axis: int = 1, own_db: float = 0.0):
    gains = ChannelScales(axis)
    for part in (slice(0, 6), slice(6, 16)):
        gains.update(reference[part], candidate[part])
    return gains.found(own_db)


@pytest.mark.parametrize("axis", [1, -1])
def test_factors_are_found_beside_noise(axis: int) -> None:
    r = np.moveaxis(values(), 1, axis)
    shape = (-1, 1, 1) if axis == 1 else (-1,)
    noise = 0.05 * np.random.default_rng(1).standard_normal(r.shape)
    factors = FACTORS.reshape(shape)
    got = found(r, (r * factors + noise * factors).astype(np.float32), axis)
    assert got == pytest.approx(FACTORS, rel=0.02)


@pytest.mark.parametrize(
    ("change", "own_db"),
    [
        (lambda r: r + 0.3 * np.random.default_rng(1).standard_normal(r.shape), 0.0),
        (lambda r: 1.05 * r, 0.0),
        (lambda r: -r, 0.0),
        (lambda r: r[:, ::-1], 0.0),
        (lambda r: r * FACTORS.reshape(-1, 1, 1), math.inf),
        (lambda r: np.full_like(r, np.inf), 0.0),
        (lambda r: np.full_like(r, np.nan), 0.0),
        (np.zeros_like, 0.0),
    ],
    ids=["noise", "percents", "sign", "order", "not-its-own", "infinite", "nan", "nothing"],
)
def test_nothing_else_is_taken_for_factors(change, own_db: float) -> None:
    r = values()
    assert found(r, change(r).astype(np.float32), own_db=own_db) is None


def test_channels_without_values_have_the_factor_one() -> None:
    r = values()
    r[:, 2] = 0
    got = found(r, r * FACTORS.reshape(-1, 1, 1).astype(np.float32))
    assert got == pytest.approx([1.0, 8.0, 1.0, 2.0])


def test_values_without_channels_have_none() -> None:
    assert found(np.arange(16.0), 3 * np.arange(16.0)) is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=4), st.floats(-math.inf, 60))
def test_exact_factors_are_exact(factors: list[float], own_db: float) -> None:
    r = values()
    got = found(
        r.astype(np.float64), r.astype(np.float64) * np.reshape(factors, (-1, 1, 1)), 1, own_db
    )
    if max(max(f, 1 / f) for f in factors) < 1.1 - 1e-9:
        assert got is None
    elif got is not None:
        assert got == pytest.approx(factors)
