"""The solvers: exact where an exact answer exists, and true to their constraint elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate.moments import Moments
from onnxlite.repair import least_squares as solve
from onnxlite.repair.factor import Factor, inverse_of_upper
from onnxlite.repair.least_squares import solve_affine, solve_weights

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


def solved(gram, cross, weight, ridge):
    return solve_weights(Factor(gram, ridge), gram, cross, weight)


def moments(x: np.ndarray, weight: np.ndarray) -> Moments:
    return Moments.of(x, np.einsum("ngk,gkm->ngm", x, weight) + 3.0)


def test_full_finds_the_weight_and_the_bias(rows, truth):
    seen = moments(rows, truth)
    found = solved(seen.gram, seen.cross, np.full_like(truth, 1e-3), 1e-12)
    np.testing.assert_allclose(found, truth, atol=1e-6)
    np.testing.assert_allclose(seen.intercept(found), 3.0, atol=1e-6)


def test_masked_finds_the_weight_on_its_support(rows, truth):
    seen = moments(rows, truth)
    start = np.where(truth != 0, 0.5, 0.0)
    found = solved(seen.gram, seen.cross, start, 1e-12)
    np.testing.assert_allclose(found, truth, atol=1e-6)
    assert np.array_equal(found != 0, truth != 0)


def test_conjugate_gradients_agree_with_the_direct_solution(rows, monkeypatch):
    start = np.where(RNG.random((2, 12, 5)) < 0.5, RNG.standard_normal((2, 12, 5)), 0)
    seen = moments(rows, RNG.standard_normal((2, 12, 5)))
    direct = solved(seen.gram, seen.cross, start, 1e-3)
    monkeypatch.setattr(solve, "_DIRECT_SIZE", 0)
    monkeypatch.setattr(solve, "_MIN_GAIN", 1e-9)
    iterated = solved(seen.gram, seen.cross, start, 1e-3)
    np.testing.assert_allclose(iterated, direct, atol=1e-3)
    assert np.array_equal(iterated != 0, start != 0)


@pytest.mark.parametrize("zeros", [0.05, 0.2, 0.5])
def test_zeros_stay_however_many_there_are(rows, zeros):
    """Each way to solve on a support is at the optimum: no weight on it has a slope."""
    start = np.where(RNG.random((2, 12, 5)) < zeros, 0, RNG.standard_normal((2, 12, 5)))
    seen = moments(rows, RNG.standard_normal((2, 12, 5)))
    factor = Factor(seen.gram, 1e-3)
    found = solve_weights(factor, seen.gram, seen.cross, start)
    assert np.array_equal(found != 0, start != 0)
    slope = seen.gram @ found - seen.cross + factor.penalty[:, None, None] * (found - start)
    assert np.abs(np.where(start != 0, slope, 0)).max() < 1e-6 * np.abs(seen.cross).max()


def test_factor_is_of_the_inverse():
    x = RNG.standard_normal((500, 2, 150)) @ np.diag(RNG.random(150) + 0.1)
    gram = np.einsum("ngk,ngj->gkj", x, x)
    factor = Factor(gram, 1e-2)
    damped = gram + factor.penalty[:, None, None] * np.eye(150)
    each = np.arange(2)[:, None, None]
    ordered = damped[each, factor.order[:, :, None], factor.order[:, None, :]]
    upper = factor.upper
    assert np.array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(
        upper.transpose(0, 2, 1) @ upper @ ordered, [np.eye(150)] * 2, atol=1e-8
    )
    right = RNG.standard_normal((2, 150, 3))
    np.testing.assert_allclose(damped @ factor.solve(right), right, atol=1e-7)
    power = np.diagonal(gram, axis1=1, axis2=2)
    assert (np.diff(np.take_along_axis(power, factor.order, axis=1)) <= 0).all()


def test_a_singular_matrix_is_damped_until_it_has_a_factor():
    gram = np.ones((1, 20, 20))
    factor = Factor(gram, 0.0)
    assert np.isfinite(factor.upper).all()
    assert 0 < factor.penalty[0] < 1e-3


@pytest.mark.parametrize("size", [1, 64, 65, 200])
def test_triangles_are_inverted(size):
    matrix = np.triu(RNG.standard_normal((2, size, size)) * 0.1) + 2 * np.eye(size)
    np.testing.assert_allclose(inverse_of_upper(matrix) @ matrix, [np.eye(size)] * 2, atol=1e-9)


def test_affine_finds_a_factor_per_output(rows, truth):
    seen = moments(rows, truth)
    factor = np.array([0.5, 2, 1, 3, 0.25])
    found = solve_affine(seen.gram, seen.cross, truth / factor, 0.0)
    np.testing.assert_allclose(found, truth, atol=1e-9)


@pytest.mark.parametrize("solver", [solved, solve_affine])
def test_dead_inputs_keep_the_old_weight(solver, truth):
    seen = moments(np.zeros((50, 2, 12)), truth)
    np.testing.assert_allclose(solver(seen.gram, seen.cross, truth, 1e-3), truth)


def test_the_ridge_pulls_to_the_old_weight(rows, truth):
    seen = moments(rows, truth)
    old = truth + 1
    far = [
        np.abs(solved(seen.gram, seen.cross, old, ridge) - old).max() for ridge in (1e-6, 1.0, 1e6)
    ]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-3
