"""Rounding with compensation: less error at the output than the nearest integers."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.factor import Factor
from onnxlite.repair.grid import Grid
from onnxlite.repair.rounding import DAMPING, Compensation, Rounder

RNG = np.random.default_rng(0)


def correlated(rows: int, groups: int, features: int) -> np.ndarray:
    mixing = RNG.standard_normal((groups, features, features)) / np.sqrt(features)
    return np.einsum("ngk,gkj->ngj", RNG.standard_normal((rows, groups, features)), mixing)


def compensation(gram: np.ndarray) -> Compensation:
    return Compensation(Factor(gram, DAMPING))


def output_error(x: np.ndarray, weight: np.ndarray, other: np.ndarray) -> float:
    return float((np.einsum("ngk,gkm->ngm", x, weight - other) ** 2).sum())


@pytest.mark.parametrize("high", [1, 3, 7, 127])
@pytest.mark.parametrize("features", [5, 130])
def test_compensation_has_less_error_than_nearest(high, features):
    x, weight = correlated(600, 2, features), RNG.standard_normal((2, features, 6))
    grid = Grid(high=high)
    scale = grid.best_scale(weight, (x**2).mean(axis=0))
    gram = np.einsum("ngk,ngj->gkj", x, x)
    integers = compensation(gram).rounded(weight, scale, grid)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= high
    nearest = grid.nearest(weight, scale) * scale[:, None]
    assert output_error(x, weight, integers * scale[:, None]) < output_error(x, weight, nearest)


def test_features_that_have_nothing_in_common_are_rounded_to_nearest():
    weight, grid = RNG.standard_normal((1, 30, 4)), Grid(high=7)
    scale = grid.full_scale(weight)
    gram = np.diag(RNG.random(30) + 0.1)[None]
    assert np.array_equal(
        compensation(gram).rounded(weight, scale, grid),
        grid.nearest(weight, scale),
    )


def test_two_copies_of_a_feature_share_the_work():
    """With x0 = x1 only the sum of both weights counts: 0.5 + 0.5 is 1 + 0, not 0 + 0."""
    x = np.repeat(RNG.standard_normal((100, 1, 1)), 2, axis=2)
    weight = np.full((1, 2, 1), 0.45)
    gram = np.einsum("ngk,ngj->gkj", x, x)
    integers = compensation(gram).rounded(weight, np.ones((1, 1)), Grid(high=1))
    assert integers.sum() == 1


def test_what_was_pruned_stays_zero():
    x, weight = correlated(400, 1, 24), RNG.standard_normal((1, 24, 8))
    weight[RNG.random(weight.shape) < 0.5] = 0
    gram = np.einsum("ngk,ngj->gkj", x, x)
    grid = Grid(high=7)
    integers = compensation(gram).rounded(weight, grid.full_scale(weight), grid)
    assert not integers[weight == 0].any()


def test_no_pair_exceeds_its_limit_after_compensation():
    x, weight = correlated(400, 2, 31), RNG.standard_normal((2, 31, 8))
    # Partners need not be neighbours in the order of features.
    order = RNG.permutation(31)
    partner = np.full(31, -1)
    partner[order[0:30:2]], partner[order[1:30:2]] = order[1:30:2], order[0:30:2]
    grid = Grid(high=127, partner=partner, pair_limit=128)
    gram = np.einsum("ngk,ngj->gkj", x, x)
    integers = compensation(gram).rounded(weight, grid.full_scale(weight), grid)
    a, b = integers[:, order[0:30:2]], integers[:, order[1:30:2]]
    assert np.abs(a + b)[a * b > 0].max() <= 128
    assert (
        np.abs(compensation(gram).rounded(weight, grid.full_scale(weight), Grid(high=127))).max()
        == 127
    )


@pytest.mark.parametrize("shared", [False, True])
def test_every_way_lies_on_the_grid(shared):
    x, weight = correlated(300, 2, 12), RNG.standard_normal((2, 12, 4))
    y = np.einsum("ngk,gkm->ngm", x, weight * 1.25)
    ways = list(Rounder(Moments.of(x, y), Grid(high=7, shared=shared)).ways(weight))
    assert len(ways) == 4
    for rounded, scale in ways:
        integers = rounded / scale[:, None]
        assert np.allclose(integers, np.rint(integers), atol=1e-9)
        assert np.abs(integers).max() <= 7 + 1e-9
        assert not shared or np.ptp(scale) == 0
    best = min(output_error(x, weight * 1.25, rounded) for rounded, _ in ways)
    # The factor per output makes up for the wrong size of the weight; one shared scale cannot.
    plain = output_error(x, weight * 1.25, weight)
    assert shared or best < plain / 5
