"""The fit of one layer: collect rows, solve in several ways, keep what holds on other rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.grid import Grid
from onnxlite.repair.least_squares import Solver, solve_affine, solve_bias, solve_full, solve_masked
from onnxlite.repair.mask import Mask, rounder_of

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: `"full"` solves for all weights that are not zero, `"affine"` for a factor and a bias per
#: output channel, `"bias"` for the bias; `"auto"` takes what does best on rows held out.
Method = Literal["auto", "full", "affine", "bias"]
METHODS: tuple[Method, ...] = ("auto", "full", "affine", "bias")

#: Rows multiplied at once: enough for the matrix product to run at full speed; fewer where
#: they are so many numbers (32 MB), as of a depthwise layer.
_BLOCK_ROWS, _BLOCK_NUMBERS = 2048, 1 << 23
#: Rows per unknown beyond which more of them tell nothing new, and the least number.
_ROWS_PER_FEATURE, _LEAST_ROWS = 96, 2048
#: With fewer rows per feature than this, stronger pulls are tried as well.
_AMPLE_ROWS = 32
_PULLS = (1.0, 10.0, 100.0)
#: A Gram matrix of more features than this is not formed (0.5 GB in float64).
MAX_FEATURES = 8192
#: Rows are kept, to be fitted once more behind the activation, up to so many numbers (256 MB).
_KEPT_NUMBERS = 1 << 26
#: An error must fall by this share; less is chance.
_LEAST_GAIN = 0.01
#: Relative squared error of float32 rounding: nothing to repair.
_EXACT = 1e-10


#: What an activation lets through, `(low, high)`; infinite where it does not clip.
Clip: TypeAlias = tuple[float, float]
NO_CLIP: Clip = (-math.inf, math.inf)


class Fit(msgspec.Struct, frozen=True):
    """A layer's new weight `[g, K, M]` and bias `[g, M]`, and their error on held-out rows.

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
    method: str
    error_before: float
    error: float
    scale: Any = None


def rows_wanted(features: int, max_rows: int) -> int:
    """How many rows a fit of so many features per output should see."""
    return min(max(_ROWS_PER_FEATURE * (features + 1), _LEAST_ROWS), max_rows)


class Block(NamedTuple):
    """Some rows of one layer.

    Attributes:
        x: its features, `[n, g, K]`.
        y: the outputs wanted, `[n, g, M]`.
        addend: what is added to the output before the activation, `[n, g, M]`.
    """

    x: Array
    y: Array
    addend: Array

    def take(self, chosen: NDArray[np.bool_]) -> Block:
        """The rows marked."""
        return Block(*(part[chosen] for part in self))

    @classmethod
    def join(cls, blocks: Sequence[Block]) -> Block:
        """All rows of several blocks."""
        return cls(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


class RegressionRows:
    """Rows of one layer: those to fit, as moments, and those held out, as they are.

    Args:
        weight: the present weight, float64[g, K, M].
        bias: the present bias, float64[g, M].
        method: which solutions are tried.
        fixed: nothing but the bias may change.
        has_bias: whether there is a bias to change.
        clip: of the activation behind the layer.
        passes: how often the fit is repeated with regard to that activation.
        grid: that the new weight must lie on; the present one is then taken as rounded to it.
    """

    def __init__(
        self,
        weight: Array64,
        bias: Array64,
        *,
        method: Method,
        fixed: bool,
        has_bias: bool,
        clip: Clip = NO_CLIP,
        passes: int = 1,
        grid: Grid | Mask | None = None,
    ) -> None:
        self._weight, self._bias, self._has_bias = weight, bias, has_bias
        self._clip = clip
        self._grid = grid
        # Outputs that are zero altogether stay so: they are about to be removed, or were.
        self._dead = ~weight.any(axis=1) & (bias == 0)
        # Of a very wide layer only its output is fitted: a factor per channel.
        self._narrow = weight.shape[1] > MAX_FEATURES or method in ("affine", "bias") or fixed
        self._scale: Array64 | None = None
        if grid is not None:
            self._scale = grid.start_scale(weight)
            self._rounded = grid.nearest(weight, self._scale) * grid.spread(self._scale)
            if self._narrow:
                self._weight = self._rounded
        self._methods: tuple[Method, ...] = (
            ("full", "affine", "bias") if method == "auto" else ((method,))
        )
        if fixed:
            self._methods = ("bias",)
        elif self._narrow and method in ("auto", "full"):
            self._methods = ("affine", "bias")
        again = clip != NO_CLIP and has_bias and not self._narrow and "full" in self._methods
        self._passes = passes if again else 0
        self._moments: Moments | None = None
        self._buffer: list[Block] = []
        self._held: list[Block] = []
        self._kept: list[Block] = []
        self._broken = False
        self.count = 0

    def add(
        self, x: Array, y: Array, addend: Array | None = None, *, held_out: NDArray[np.bool_]
    ) -> None:
        """Add the rows of a `Block`; those marked are not fitted."""
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            self._broken = True
            return
        x, y = self._reduced(x), np.asarray(y, np.result_type(y.dtype, np.float32))
        addend = np.broadcast_to(y.dtype.type(0), y.shape) if addend is None else addend
        block = Block(x, y, addend)
        if self._narrow:
            block = Block(x, *(part.reshape(len(x), -1, 1) for part in (y, addend)))
        self._held.append(block.take(held_out))
        self._buffer.append(block.take(~held_out))
        self.count += len(x)
        waiting = [len(block.x) for block in self._buffer], [b.x.size for b in self._buffer]
        if sum(waiting[0]) >= _BLOCK_ROWS or sum(waiting[1]) >= _BLOCK_NUMBERS:
            self._flush()

    def _reduced(self, x: Array) -> Array:
        x = np.asarray(x, np.result_type(x.dtype, np.float32))
        if not self._narrow:
            return x
        product = x.transpose(1, 0, 2) @ self._weight.astype(x.dtype)
        channels: Array = product.transpose(1, 0, 2).reshape(len(x), -1, 1)
        return channels

    def _flush(self) -> None:
        block = Block.join(self._buffer)
        self._buffer.clear()
        if not len(block.x):
            return
        moments = Moments.of(block.x, block.y)
        self._moments = moments if self._moments is None else self._moments.merge(moments)
        if self._passes and sum(kept.x.size for kept in self._kept) < _KEPT_NUMBERS:
            self._kept.append(block)

    def moments(self) -> Moments | None:
        """The moments of the rows to be fitted; None where they are too few or not finite."""
        if self._buffer:
            self._flush()
        return None if self._broken else self._moments

    def solve(self, ridge: float) -> Fit | str:
        """The best of the solutions on the held-out rows, or why there is none."""
        if self._broken:
            return "its values are NaN or infinite on some sample"
        if self._buffer:
            self._flush()
        if not self._held:
            return "too few rows to fit and to check"
        held = Block.join(self._held)
        if self._moments is None or not len(held.x):
            return "too few rows to fit and to check"
        moments = self._moments if self._has_bias else self._moments.about_zero()
        shape = self._weight.shape
        start = np.ones((shape[0] * shape[2], 1, 1)) if self._narrow else self._weight
        old_bias = self._bias.reshape(start.shape[0], start.shape[2])
        wanted = np.clip(held.y + held.addend, *self._clip)
        variance = float(((wanted - wanted.mean(axis=0)) ** 2).sum()) or 1.0
        present = start if self._grid is None or self._narrow else self._rounded
        before = self._error(held, present, old_bias) / variance
        best = (before, "none", present, old_bias, self._scale)
        if before >= _EXACT:
            for tried in self._tried(held, moments, start, old_bias, ridge):
                method, weight, bias, scale = tried
                error = self._error(held, weight, bias) / variance
                if error < min(best[0], before * (1 - _LEAST_GAIN)):
                    best = (error, method, weight, bias, scale)
        error, name, weight, bias, scale = best
        if self._narrow:
            factor = weight.reshape(shape[0], shape[2])
            weight = self._weight * factor[:, None]
            if self._scale is not None and self._grid is not None:
                scale = self._grid.times(self._scale, factor)
        return Fit(weight, bias.reshape(self._bias.shape), name, before, error, scale)

    def _tried(
        self, held: Block, moments: Moments, start: Array64, old_bias: Array64, ridge: float
    ) -> Iterator[tuple[str, Array64, Array64, Array64 | None]]:
        """Everything that is worth a look: method, weight, bias, and scale on a grid.

        Rounding is the dearer part, so that only the present weight and the best of the others
        go on the grid.
        """
        dead = self._dead.reshape(old_bias.shape)
        solved = [
            (method, np.where(dead[:, None], start, weight), np.where(dead, 0.0, bias))
            for method, weight, bias in self._floats(moments, start, old_bias, ridge)
        ]
        if self._grid is None:
            yield from ((*solution, None) for solution in solved)
            return
        if self._narrow:
            for method, weight, _ in solved:
                # A scale is positive.
                positive = np.where(weight > 0, weight, 1.0)
                bias = moments.intercept(positive) if self._has_bias else old_bias
                yield method, positive, np.where(dead, 0.0, bias), None
            return
        rounder = rounder_of(moments, self._grid)
        best = min(solved, key=lambda solution: self._error(held, *solution[1:]))
        for method, weight, _ in (("rounded", start, old_bias), best):
            for rounded, scale in rounder.ways(weight):
                bias = moments.intercept(rounded) if self._has_bias else old_bias
                yield method, rounded, np.where(dead, 0.0, bias), scale

    def _floats(
        self, moments: Moments, start: Array64, old_bias: Array64, ridge: float
    ) -> Iterator[tuple[str, Array64, Array64]]:
        for method, pull in self._attempts(ridge):
            for solution in self._solutions(method, moments, start, old_bias, pull):
                yield method, *solution

    def _attempts(self, ridge: float) -> Iterator[tuple[Method, float]]:
        """Ways to solve; where rows are scarce, also with a stronger pull to the old weight."""
        assert self._moments is not None
        scarce = self._moments.rows < _AMPLE_ROWS * self._weight.shape[1]
        for method in self._methods:
            for strength in _PULLS if scarce and method == "full" else _PULLS[:1]:
                yield method, ridge * strength

    def _solutions(
        self, method: Method, moments: Moments, start: Array64, old_bias: Array64, pull: float
    ) -> Iterator[tuple[Array64, Array64]]:
        """The fit, then fits that heed the activation.

        Where the activation clips, all outputs beyond the bound are alike: there the target
        is the bound or what the last fit gives, whichever is further out. (Alternating
        minimisation of the error behind the activation; Zhang et al. 2016, sec. 3.2, for
        Relu.)
        """
        solve = _solver(method, start)
        weight = solve(moments.gram, moments.cross, start, pull)
        bias = moments.intercept(weight) if self._has_bias else old_bias
        yield weight, bias
        if not self._kept or method != "full":
            return
        for _ in range(self._passes):
            again = reduce(Moments.merge, (self._behind(rows, weight, bias) for rows in self._kept))
            weight = solve(again.gram, again.cross, start, pull)
            bias = again.intercept(weight)
            yield weight, bias

    def _behind(self, rows: Block, weight: Array64, bias: Array64) -> Moments:
        """The moments of rows whose targets beyond a bound are replaced, see `_solutions`."""
        low, high = (bound - rows.addend for bound in self._clip)
        made = _product(rows.x, weight, bias)
        target = np.where(rows.y <= low, np.minimum(made, low), rows.y)
        target = np.where(rows.y >= high, np.maximum(made, high), target)
        return Moments.of(rows.x, target)

    def _error(self, rows: Block, weight: Array64, bias: Array64) -> float:
        made = np.clip(_product(rows.x, weight, bias) + rows.addend, *self._clip)
        wanted = np.clip(rows.y + rows.addend, *self._clip)
        return float(((wanted - made) ** 2).sum(dtype=np.float64))


def _solver(method: str, weight: Array64) -> Solver:
    if method == "full":
        return solve_full if weight.all() else solve_masked
    return {"affine": solve_affine, "bias": solve_bias}[method]


def _product(x: Array, weight: Array64, bias: Array64) -> Array:
    product = x.transpose(1, 0, 2) @ weight.astype(x.dtype)
    made: Array = product.transpose(1, 0, 2) + bias.astype(x.dtype)
    return made


def split(count: int, feed: int, feeds: int) -> NDArray[np.bool_]:
    """Which of `count` rows are held out: whole feeds, or rows where feeds are few.

    Rows of one sample are alike, so that others of its rows would be no check.
    """
    if feeds >= FEEDS_TO_SPLIT:
        return np.full(count, feed in held_out_feeds(feeds))
    return np.equal(np.arange(count) % _HELD_OUT_EVERY, _HELD_OUT_EVERY - 1)


#: With this many feeds whole ones are held out; one of so many.
FEEDS_TO_SPLIT = 4
_HELD_OUT_EVERY = 8


def held_out_feeds(feeds: int) -> Sequence[int]:
    """The feeds that no fit sees; all of them where there are too few to hold one back."""
    if feeds < FEEDS_TO_SPLIT:
        return range(feeds)
    return range(min(_HELD_OUT_EVERY, feeds) - 1, feeds, _HELD_OUT_EVERY)
