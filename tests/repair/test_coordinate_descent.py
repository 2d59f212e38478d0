"""Descent after rounding: never a larger error, on the grid, and as good as trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.grid import Grid
from onnxlite.repair.rounding import Rounder, coordinate_descent

GRIDS = [
    Grid(high=1),
    Grid(high=1, odd=True),
    Grid(high=1, uneven=True),
    Grid(high=1, block=4),
    Grid(high=1, odd=True, block=4),
]


def problem(seed: int, features: int = 16, outputs: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((60, features)) @ rng.standard_normal((features, features))
    return rng.standard_normal((1, features, outputs)), (mixed.T @ mixed)[None]


def error(integers: np.ndarray, weight: np.ndarray, gram: np.ndarray, spread: np.ndarray) -> float:
    wrong = integers * spread - weight
    return float((wrong * (gram @ wrong)).sum())


@pytest.mark.parametrize("grid", GRIDS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_error_never_grows(grid: Grid, seed: int) -> None:
    weight, gram = problem(seed)
    scale = grid.best_scale(weight, np.ones((1, 16)))
    start = grid.nearest(weight, scale)
    found = coordinate_descent(start, weight, gram, scale, grid)
    spread = grid.spread(scale)
    assert error(found, weight, gram, spread) <= error(start, weight, gram, spread) * (1 + 1e-9)
    assert ((found >= grid.low) & (found <= grid.high) & (found == np.rint(found))).all()
    assert not grid.odd or (np.abs(found) == 1).all()


def test_no_single_change_is_better() -> None:
    weight, gram = problem(3)
    grid = Grid(high=1)
    scale = grid.best_scale(weight, np.ones((1, 16)))
    found = grid.nearest(weight, scale)
    for _ in range(20):
        found = coordinate_descent(found, weight, gram, scale, grid)
    least = error(found, weight, gram, grid.spread(scale))
    for k, m, value in itertools.product(range(16), range(5), (-1, 0, 1)):
        other = found.copy()
        other[0, k, m] = value
        assert error(other, weight, gram, grid.spread(scale)) >= least - 1e-9


def test_pruned_weights_stay_zero() -> None:
    weight, gram = problem(1)
    weight[0, ::2] = 0
    grid = Grid(high=1)
    scale = grid.best_scale(weight, np.ones((1, 16)))
    found = coordinate_descent(grid.nearest(weight, scale), weight, gram, scale, grid)
    assert not found[0, ::2].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_coarse_grids_gain_by_it(grid: Grid) -> None:
    weight, _ = problem(7)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 1, 16)) @ rng.standard_normal((16, 16))
    moments = Moments.of(x, x @ weight[0])

    def wrong(found: np.ndarray) -> float:
        return float(((x @ (found - weight)[0]) ** 2).sum())

    *others, (refined, _) = Rounder(moments, grid).ways(weight)
    assert wrong(refined) < min(wrong(found) for found, _ in others)
