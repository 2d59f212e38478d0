"""The solvers: exact where an exact answer exists, and true to their constraint elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate.moments import Moments
from onnxlite.repair import least_squares as solve
from onnxlite.repair.least_squares import solve_affine, solve_bias, solve_full, solve_masked

RNG = np.random.default_rng(0)


@pytest.fixture
def rows():
    return RNG.standard_normal((400, 2, 12)) @ RNG.standard_normal((2, 12, 12)).mean(0)


@pytest.fixture
def truth():
    weight = RNG.standard_normal((2, 12, 5))
    weight[:, ::3, :2] = 0
    weight[1, :, 4] = 0
    return weight


def moments(x: np.ndarray, weight: np.ndarray) -> Moments:
    return Moments.of(x, np.einsum("ngk,gkm->ngm", x, weight) + 3.0)


def test_full_finds_the_weight_and_the_bias(rows, truth):
    seen = moments(rows, truth)
    found = solve_full(seen.gram, seen.cross, np.zeros_like(truth), 1e-12)
    np.testing.assert_allclose(found, truth, atol=1e-6)
    np.testing.assert_allclose(seen.intercept(found), 3.0, atol=1e-6)


def test_masked_finds_the_weight_on_its_support(rows, truth):
    seen = moments(rows, truth)
    start = np.where(truth != 0, 0.5, 0.0)
    found = solve_masked(seen.gram, seen.cross, start, 1e-12)
    np.testing.assert_allclose(found, truth, atol=1e-6)
    assert np.array_equal(found != 0, truth != 0)


def test_conjugate_gradients_agree_with_the_direct_solution(rows, monkeypatch):
    start = np.where(RNG.random((2, 12, 5)) < 0.5, RNG.standard_normal((2, 12, 5)), 0)
    seen = moments(rows, RNG.standard_normal((2, 12, 5)))
    direct = solve_masked(seen.gram, seen.cross, start, 1e-3)
    monkeypatch.setattr(solve, "_DIRECT_SIZE", 0)
    monkeypatch.setattr(solve, "_MIN_GAIN", 1e-9)
    iterated = solve_masked(seen.gram, seen.cross, start, 1e-3)
    np.testing.assert_allclose(iterated, direct, atol=1e-3)
    assert np.array_equal(iterated != 0, start != 0)


def test_a_full_support_is_the_full_solution(rows, truth):
    seen = moments(rows, truth)
    start = np.ones_like(truth)
    np.testing.assert_allclose(
        solve_masked(seen.gram, seen.cross, start, 1e-3),
        solve_full(seen.gram, seen.cross, start, 1e-3),
        rtol=1e-8,
    )


def test_affine_finds_a_factor_per_output(rows, truth):
    seen = moments(rows, truth)
    factor = np.array([0.5, 2, 1, 3, 0.25])
    found = solve_affine(seen.gram, seen.cross, truth / factor, 0.0)
    np.testing.assert_allclose(found, truth, atol=1e-9)


def test_bias_leaves_the_weight(rows, truth):
    seen = moments(rows, truth)
    assert solve_bias(seen.gram, seen.cross, truth, 1.0) is truth


@pytest.mark.parametrize("solver", [solve_full, solve_masked, solve_affine])
def test_dead_inputs_keep_the_old_weight(solver, truth):
    seen = moments(np.zeros((50, 2, 12)), truth)
    np.testing.assert_allclose(solver(seen.gram, seen.cross, truth, 1e-3), truth)


def test_the_ridge_pulls_to_the_old_weight(rows, truth):
    seen = moments(rows, truth)
    old = truth + 1
    far = [
        np.abs(solve_full(seen.gram, seen.cross, old, ridge) - old).max()
        for ridge in (1e-6, 1.0, 1e6)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-3
