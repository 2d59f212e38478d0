"""Fit of one layer: solve in several ways, keep what does best on the rows held out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments, cross_moments, precise
from onnxlite.interruption import checkpoint
from onnxlite.repair.factor import Factor
from onnxlite.repair.grid import Grid
from onnxlite.repair.least_squares import solve_affine, solve_weights
from onnxlite.repair.mask import Mask, rounder_of
from onnxlite.repair.options import FitMethod
from onnxlite.repair.regression import Block, RegressionRows
from onnxlite.repair.rounding import DAMPING

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: With fewer rows per feature than this, stronger ridges are tried as well.
_AMPLE_ROWS = 32
_RIDGE_FACTORS = (1.0, 10.0, 100.0)
#: With fewer features, or fewer rows per feature, no new weight does better on a fine grid.
_FEW_FEATURES, _FEW_ROWS = 32, 8
#: An error must fall by this fraction; less is chance.
_MIN_GAIN = 0.01
#: Relative squared error of float32 rounding: nothing to repair.
_EXACT = 1e-10


class Fit(msgspec.Struct, frozen=True):
    """A layer's new weight and bias, and their error on the rows held out.

    Attributes:
        weight: float64[g, K, M].
        bias: float64[g, M].
        method: how they were found; `"none"` where the present ones stay.
        error_before: squared error behind the activation over the target's variance there,
            with the present weight.
        error: the same with the new one.
        scale: of a weight on a grid, as the grid gives it; None without a grid.
    """

    weight: Any
    bias: Any
    method: FitMethod
    error_before: float
    error: float
    scale: Any = None


class _Solution(NamedTuple):
    """One candidate: weight and bias, and the scale of a weight on a grid."""

    method: FitMethod
    weight: Array64
    bias: Array64
    scale: Array64 | None = None


def fit_layer(rows: RegressionRows, ridge: float) -> Fit | str:
    """Fit a layer to its rows, or say why there is no fit.

    Args:
        rows: what the layer reads and should output.
        ridge: pull towards the present weight, see `least_squares`.
    """
    checkpoint()
    if rows.broken:
        return "its values are NaN or infinite on some sample"
    moments, held_out = rows.moments(), rows.held_out()
    if moments is None or held_out is None:
        return "too few rows to fit and to check"
    return _LayerFit(rows, moments, held_out, ridge).best()


class _LayerFit:
    """The candidates for one layer, and their errors.

    Where only a factor per channel is fitted, the problem is one of g * M groups of one feature
    and one output: the layer's present output of a channel.
    """

    def __init__(
        self, rows: RegressionRows, moments: Moments, held_out: Block, ridge: float
    ) -> None:
        self._state = state = rows.state
        self._rows, self._held_out, self._ridge = rows, held_out, ridge
        self._moments = moments if state.has_bias else moments.about_zero()
        groups, _, outputs = state.weight.shape
        self._start = np.ones((groups * outputs, 1, 1)) if state.per_channel else state.weight
        self._old_bias = state.bias.reshape(self._start.shape[0], self._start.shape[2])
        self._dead = state.dead.reshape(self._old_bias.shape)
        self._factors: dict[float, Factor] = {}

    def best(self) -> Fit:
        """Return the candidate with the least error on the rows held out."""
        state, held = self._state, self._held_out
        wanted = precise(np.clip(held.y + held.addend, *state.clip))
        variance = float(((wanted - wanted.mean(axis=0)) ** 2).sum()) or 1.0
        present = self._start if state.per_channel else state.rounded
        best = _Solution("none", present, self._old_bias, state.grid_scale)
        before = error = self._error(present, self._old_bias) / variance
        for tried in self._candidates() if before >= _EXACT else ():
            reached = self._error(tried.weight, tried.bias) / variance
            if reached < min(error, before * (1 - _MIN_GAIN)):
                best, error = tried, reached
        if state.per_channel:
            best = self._applied(best)
        bias = best.bias.reshape(state.bias.shape)
        return Fit(best.weight, bias, best.method, before, error, best.scale)

    def _applied(self, found: _Solution) -> _Solution:
        """Put a factor per channel into the layer's weight."""
        state = self._state
        groups, _, outputs = state.weight.shape
        factor = found.weight.reshape(groups, outputs)
        scale = found.scale
        if state.grid is not None and state.grid_scale is not None:
            scale = state.grid.times(state.grid_scale, factor)
        return found._replace(weight=state.rounded * factor[:, None], scale=scale)

    def _candidates(self) -> Iterator[_Solution]:
        """Everything that is worth a try."""
        solved = [
            _Solution(
                method,
                np.where(self._dead[:, None], self._start, weight),
                np.where(self._dead, 0.0, bias),
            )
            for method, weight, bias in self._unrounded()
        ]
        if self._state.grid is None:
            yield from solved
        elif self._state.per_channel:
            for method, weight, *_ in solved:
                # A scale is positive.
                positive = np.where(weight > 0, weight, 1.0)
                yield _Solution(method, positive, self._bias_of(positive))
        else:
            yield from self._on_grid(self._state.grid, solved)

    def _on_grid(self, grid: Grid | Mask, solved: list[_Solution]) -> Iterator[_Solution]:
        """Put weights on the grid: the present one, and the best of the others if it is better.

        Rounding is the expensive part.
        """
        factor = None if isinstance(grid, Mask) else self._factor(DAMPING)
        rounder = rounder_of(self._moments, grid, factor)
        starts: list[tuple[FitMethod, Array64]] = [("rounded", self._start)]
        refitted = [found for found in solved if found.method == "full"]
        if refitted:
            errors = [self._error(found.weight, found.bias) for found in refitted]
            least = int(np.argmin(errors))
            present = self._error(self._start, self._bias_of(self._start))
            if errors[least] < present * (1 - _MIN_GAIN):
                starts.append(("full", refitted[least].weight))
        for method, weight in starts:
            for rounded, scale in rounder.ways(weight):
                yield _Solution(method, rounded, self._bias_of(rounded), scale)

    def _bias_of(self, weight: Array64) -> Array64:
        """Return the best bias for a weight; that of dead outputs stays zero."""
        bias = self._moments.intercept(weight) if self._state.has_bias else self._old_bias
        return np.where(self._dead, 0.0, bias)

    def _unrounded(self) -> Iterator[tuple[FitMethod, Array64, Array64]]:
        """Solutions of every method; where rows are scarce, with a stronger ridge as well."""
        features = self._state.weight.shape[1]
        scarce = self._moments.rows < _AMPLE_ROWS * features
        for method in self._state.methods:
            if method != "full":
                weight = self._start if method == "bias" else self._affine()
                yield method, weight, self._intercept(self._moments, weight)
            elif not self._fine:
                for factor in _RIDGE_FACTORS if scarce else _RIDGE_FACTORS[:1]:
                    for solution in self._solutions(self._ridge * factor):
                        yield method, *solution
            elif features >= _FEW_FEATURES and self._moments.rows >= _FEW_ROWS * features:
                # The factor of the rounding serves here as well.
                for solution in self._solutions(DAMPING):
                    yield method, *solution

    @property
    def _fine(self) -> bool:
        grid = self._state.grid
        return isinstance(grid, Grid) and grid.fine

    def _affine(self) -> Array64:
        return solve_affine(self._moments.gram, self._moments.cross, self._start, self._ridge)

    def _intercept(self, moments: Moments, weight: Array64) -> Array64:
        return moments.intercept(weight) if self._state.has_bias else self._old_bias

    def _factor(self, ridge: float) -> Factor:
        """Return the factor of the moments with a ridge, made once."""
        if ridge not in self._factors:
            self._factors[ridge] = Factor(self._moments.gram, ridge)
        return self._factors[ridge]

    def _solutions(self, ridge: float) -> Iterator[tuple[Array64, Array64]]:
        """Yield the fit of all weights, then fits with regard to the activation.

        Where the activation clips, all outputs beyond the bound are alike: there the target
        is the bound or what the last fit gives, whichever is further out. (Alternating
        minimisation of the error behind the activation; Zhang et al. 2016, sec. 3.2, for
        Relu.)
        """
        moments, start, rows = self._moments, self._start, self._rows
        weight = solve_weights(self._factor(ridge), moments.gram, moments.cross, start)
        bias = self._intercept(moments, weight)
        yield weight, bias
        if not rows.kept:
            return
        whole = sum(len(block.x) for block in rows.kept) == moments.rows
        for _ in range(self._state.passes_behind_clip):
            targets = [self._behind_clip(block, weight, bias) for block in rows.kept]
            blocks = [(block.x, y) for block, y in zip(rows.kept, targets, strict=True)]
            if whole:
                # Only the targets are new: the factor holds.
                mean_x, mean_y, cross = cross_moments(blocks)
                weight = solve_weights(self._factor(ridge), moments.gram, cross, start)
                bias = mean_y - np.einsum("gk,gkm->gm", mean_x, weight)
            else:
                again = reduce(Moments.merge, (Moments.of(x, y) for x, y in blocks))
                weight = solve_weights(Factor(again.gram, ridge), again.gram, again.cross, start)
                bias = again.intercept(weight)
            yield weight, bias

    def _behind_clip(self, rows: Block, weight: Array64, bias: Array64) -> Array:
        """Targets of rows, of which those beyond a bound are replaced, see `_solutions`."""
        low, high = (bound - rows.addend for bound in self._state.clip)
        made = _product(rows.x, weight, bias)
        target = np.where(rows.y <= low, np.minimum(made, low), rows.y)
        return np.asarray(np.where(rows.y >= high, np.maximum(made, high), target))

    def _error(self, weight: Array64, bias: Array64) -> float:
        """Squared error behind the activation on the rows held out."""
        held, clip = self._held_out, self._state.clip
        made = np.clip(_product(held.x, weight, bias) + held.addend, *clip)
        wanted = np.clip(held.y + held.addend, *clip)
        return float(((precise(wanted) - precise(made)) ** 2).sum(dtype=np.float64))


def _product(x: Array, weight: Array64, bias: Array64) -> Array:
    product = x.transpose(1, 0, 2) @ weight.astype(x.dtype)
    made: Array = product.transpose(1, 0, 2) + bias.astype(x.dtype)
    return made
