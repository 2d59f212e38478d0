"""Rounding with compensation: the error of one weight is made up for by those not rounded yet.

For a layer `Y = X W` with `H = X'X`, features are rounded one after the other; with U the
upper Cholesky factor of H^-1, the error of feature k, `e = (w_k - q_k) / U_kk`, is taken off
the others as `w_j -= U_kj e`: the optimal correction of Optimal Brain Surgeon, for all outputs
at once (Frantar et al. 2023, GPTQ, alg. 1). Features with the largest second moments come
first, while there are most others left to make up for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.factor import Factor
from onnxlite.repair.grid import Grid
from onnxlite.repair.least_squares import solve_affine

Array64 = NDArray[np.float64]

#: Added to the diagonal of H, as a fraction of its mean.
DAMPING = 0.01
#: How strongly the factor of an output is pulled to 1.
_AFFINE_RIDGE = 1e-3
#: Features whose corrections are applied to the rest in one matrix product.
_BLOCK = 64
#: Of a coarse grid: scales tried, as multiples of the one with the least error of weights, and
#: how often integers and scale take turns.
_SIZES = (0.85, 1.0, 1.15)
_ROUNDS = 2


class Rounder:
    """Puts weights of one layer on its grid; what depends on the features is made once.

    Args:
        moments: of the layer's features and wanted outputs.
        grid: what numbers there are.
        factor: of the moments, if there is one already.
    """

    def __init__(self, moments: Moments, grid: Grid, factor: Factor | None = None) -> None:
        self._moments, self._grid = moments, grid
        self._compensation = Compensation(factor or Factor(moments.gram, DAMPING))
        self._power = np.diagonal(moments.gram, axis1=1, axis2=2) / moments.rows

    def ways(self, weight: Array64) -> Iterator[tuple[Array64, Array64]]:
        """Yield roundings of a weight: `(weight, scale)`, the first float64[g, K, M].

        With the scale that reaches the largest weight and, of few levels, with the one of least
        error; each is then multiplied by the factor per output that comes closest to the wanted
        output, which costs nothing because it goes into the scale.
        """
        grid, moments = self._grid, self._moments
        scales = [grid.start_scale(weight)]
        if not grid.fine:
            scales.append(grid.best_scale(weight, self._power))
        for scale in scales:
            for integers in (
                grid.nearest(weight, scale),
                self._compensation.rounded(weight, scale, grid),
            ):
                rounded = integers * grid.spread(scale)
                if grid.shared:
                    yield rounded, scale
                    continue
                fitted = solve_affine(moments.gram, moments.cross, rounded, _AFFINE_RIDGE)
                factor = _ratio(fitted, rounded)
                yield rounded * factor[:, None], grid.times(scale, factor)
        if grid.coarse:
            yield self._refined(weight)

    def _refined(self, weight: Array64) -> tuple[Array64, Array64]:
        """Refine scales of several sizes by coordinate descent; each output takes its best."""
        grid, moments = self._grid, self._moments
        start = grid.best_scale(weight, self._power)
        best: tuple[Array64, Array64, Array64] | None = None
        for size in _SIZES:
            scale = start * size
            integers = self._compensation.rounded(weight, scale, grid)
            for _ in range(_ROUNDS):
                integers = coordinate_descent(integers, weight, moments.gram, scale, grid)
                rounded = integers * grid.spread(scale)
                fitted = solve_affine(moments.gram, moments.cross, rounded, _AFFINE_RIDGE)
                scale = grid.times(scale, _ratio(fitted, rounded))
            rounded = integers * grid.spread(scale)
            error = self._error(rounded)
            if best is None:
                best = error, rounded, scale
                continue
            better = error < best[0]
            best = (
                np.where(better, error, best[0]),
                np.where(better[:, None], rounded, best[1]),
                np.where(better[:, None] if grid.block else better, scale, best[2]),
            )
        assert best is not None
        return best[1:]

    def _error(self, weight: Array64) -> Array64:
        """Return the squared error of each output, less what no weight changes: float64[g, M]."""
        gram, cross = self._moments.gram, self._moments.cross
        error: Array64 = (weight * (gram @ weight - 2 * cross)).sum(axis=1)
        return error


class Compensation:
    """Effect that the rounding of each feature has on those after it.

    Args:
        factor: of the second moments of the features.
    """

    def __init__(self, factor: Factor) -> None:
        self._factor = factor
        self._each = np.arange(len(factor.order))[:, None]
        self._order, self._upper = factor.order, factor.upper
        self._back = np.argsort(self._order, axis=1)

    def rounded(self, weight: Array64, scale: Array64, grid: Grid) -> Array64:
        """Round `weight` to integers of a grid with the least error of the output.

        Args:
            weight: float64[g, K, M].
            scale: as the grid gives it, float64[g, M] without blocks.
            grid: what integers there are.

        Returns:
            Whole numbers, float64[g, K, M].
        """
        size, upper = weight.shape[1], self._upper
        steps = np.broadcast_to(grid.spread(scale), weight.shape)[self._each, self._order]
        work = weight[self._each, self._order]
        integers = np.zeros_like(work)
        partner = None if grid.partner is None else _moved(grid.partner, self._order, self._back)
        # An odd grid has no zero.
        support = (work != 0) | grid.odd
        for start in range(0, size, _BLOCK):
            stop = min(start + _BLOCK, size)
            errors = np.zeros_like(work[:, start:stop])
            for k in range(start, stop):
                low, high = _bounds(grid, partner, integers, k)
                # What was pruned stays zero.
                nearest = grid.snap(work[:, k] / steps[:, k], low, high)
                integers[:, k] = nearest * support[:, k]
                error = (work[:, k] - integers[:, k] * steps[:, k]) / upper[:, k, k, None]
                work[:, k + 1 : stop] -= upper[:, k, k + 1 : stop, None] * error[:, None]
                errors[:, k - start] = error
            work[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
        restored: Array64 = integers[self._each, self._back]
        return restored


def _ratio(scaled: Array64, weight: Array64) -> Array64:
    """Return the factor per output between two weights; 1 where it is not positive."""
    top, bottom = np.abs(scaled).sum(axis=1), np.abs(weight).sum(axis=1)
    factor = np.divide(top, bottom, out=np.ones_like(top), where=bottom > 0)
    aligned = (scaled * weight).sum(axis=1) > 0
    return np.where(aligned & (factor > 0), factor, 1.0)


def _moved(partner: NDArray[np.intp], order: NDArray[Any], back: NDArray[Any]) -> NDArray[Any]:
    """Return partners in the order of work, `[g, K]`."""
    partners = partner[order]
    moved: NDArray[Any] = np.where(partners < 0, -1, np.take_along_axis(back, partners, axis=1))
    return moved


def _bounds(grid: Grid, partner: NDArray[Any] | None, integers: Array64, k: int) -> Any:
    """Return bounds of feature k; a partner that is not rounded yet is zero."""
    if partner is None:
        return grid.low, grid.high
    mine = partner[:, k]
    other = np.take_along_axis(integers, np.maximum(mine, 0)[:, None, None], axis=1)[:, 0]
    return grid.bounds(np.where(mine[:, None] < 0, 0.0, other))


#: Rounds over all features: later ones change next to nothing.
_SWEEPS = 3


def coordinate_descent(
    integers: Array64, weight: Array64, gram: Array64, scale: Array64, grid: Grid
) -> Array64:
    """Improve integers one feature at a time; the error never grows.

    Args:
        integers: float64[g, K, M], on the grid.
        weight: float64[g, K, M], what they should stand for.
        gram: float64[g, K, K].
        scale: as the grid gives it.
        grid: without partners.
    """
    steps = np.broadcast_to(grid.spread(scale), weight.shape)
    support = (weight != 0) | grid.odd
    present = integers * steps
    # How the error grows with each weight, halved.
    slope = gram @ (present - weight)
    power = np.diagonal(gram, axis1=1, axis2=2)
    result = integers.copy()
    for _ in range(_SWEEPS):
        moved = 0
        for k in range(weight.shape[1]):
            curve = power[:, k, None]
            best = present[:, k] - np.divide(
                slope[:, k], curve, out=np.zeros_like(slope[:, k]), where=curve > 0
            )
            new = grid.snap(best / steps[:, k], grid.low, grid.high) * support[:, k]
            change = (new - result[:, k]) * steps[:, k]
            if not change.any():
                continue
            moved += int(np.count_nonzero(change))
            slope += gram[:, :, k, None] * change[:, None]
            result[:, k] = new
            present[:, k] += change
        if not moved:
            break
    return result
