"""Grids of integers: nearest numbers, bounds of pairs, and the scale of least error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.repair.grid import Grid

RNG = np.random.default_rng(0)


def weight(groups: int = 2, features: int = 9, outputs: int = 5) -> np.ndarray:
    return RNG.standard_normal((groups, features, outputs))


def test_the_full_scale_just_reaches_the_largest_weight():
    w = weight()
    scale = Grid(high=7).full_scale(w)
    assert np.allclose(scale * 7, np.abs(w).max(axis=1))
    shared = Grid(high=7, shared=True).full_scale(w)
    assert np.allclose(shared * 7, np.abs(w).max())


def test_a_dead_output_has_scale_one():
    w = weight()
    w[:, :, 2] = 0
    assert np.all(Grid(high=127).full_scale(w)[:, 2] == 1)


@pytest.mark.parametrize("high", [1, 7, 127])
def test_nearest_is_within_half_a_step_and_within_the_grid(high):
    w, grid = weight(), Grid(high=high)
    scale = grid.full_scale(w)
    integers = grid.nearest(w, scale)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() == high
    assert np.abs(integers * scale[:, None] - w).max() <= scale.max() / 2 * (1 + 1e-12)


@pytest.mark.parametrize("high", [1, 3, 7])
@pytest.mark.parametrize("shared", [False, True])
def test_the_best_scale_has_no_more_error_than_the_full_one(high, shared):
    w, grid = weight(features=40), Grid(high=high, shared=shared)
    power = RNG.random((2, 40))

    def error(scale: np.ndarray) -> float:
        wrong = w - grid.nearest(w, scale) * scale[:, None]
        return float(np.einsum("gk,gkm->", power, wrong**2))

    best = grid.best_scale(w, power)
    assert error(best) < error(grid.full_scale(w))
    assert not shared or np.ptp(best) == 0


def test_the_best_scale_looks_at_the_power_of_features():
    """A large weight on a feature that is always zero may be clipped."""
    w = np.array([0.1, -0.2, 0.15, 10.0]).reshape(1, 4, 1)
    grid = Grid(high=7)
    heeded = grid.best_scale(w, np.ones((1, 4)))
    ignored = grid.best_scale(w, np.array([[1.0, 1.0, 1.0, 0.0]]))
    assert ignored < heeded


def pairs(features: int) -> np.ndarray:
    partner = np.arange(features) ^ 1
    return np.where(partner < features, partner, -1)


@given(
    seed=st.integers(0, 10_000),
    features=st.integers(1, 9),
    factor=st.floats(0.3, 2.5),
)
def test_no_pair_of_one_sign_exceeds_its_limit(seed, features, factor):
    w = np.random.default_rng(seed).standard_normal((2, features, 3))
    grid = Grid(high=127, partner=pairs(features), pair_limit=128)
    integers = grid.nearest(w, grid.full_scale(w) * factor)
    even = features // 2 * 2
    a, b = integers[:, 0:even:2], integers[:, 1:even:2]
    same = a * b > 0
    assert np.all(np.abs(a + b)[same] <= 128)
    free = Grid(high=127).nearest(w, grid.full_scale(w) * factor)
    assert np.abs(integers).sum() <= np.abs(free).sum()
    assert np.all(integers * free >= 0)


def test_the_bounds_of_a_feature_are_what_its_partner_leaves():
    grid = Grid(high=127, partner=pairs(2), pair_limit=128)
    low, high = grid.bounds(np.array([0.0, 100.0, -100.0, 127.0]))
    assert high.tolist() == [127, 28, 127, 1]
    assert low.tolist() == [-127, -127, -28, -127]
