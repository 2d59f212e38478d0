"""Second moments of a layer's input and its target output, all that a linear fit needs.

Streaming and mergeable: memory depends on the number of features, never on the number of
rows. Moments are kept about the mean (Chan et al. 1983), because the difference of two large
raw moments would lose the precision of float32 data; a fit with an intercept is then a fit
without one on the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Sums of a million squares of larger numbers overflow float32.
_MAX_SQUARED = 1e16
#: Rows that are added in their own precision: a product, many times as fast as a sum in float64.
_ADDED = 32

Array = NDArray[Any]
Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Moments of `rows` observations of g independent groups of K features and M targets.

    Attributes:
        rows: number of observations.
        mean_x: float64[g, K], of the features.
        mean_y: float64[g, M], of the targets.
        gram: float64[g, K, K], sum of `(x - mean_x)(x - mean_x)'`.
        cross: float64[g, K, M], sum of `(x - mean_x)(y - mean_y)'`.
        power: float64[g, M], sum of `(y - mean_y)^2`.
    """

    rows: int
    mean_x: Array64
    mean_y: Array64
    gram: Array64
    cross: Array64
    power: Array64

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """Compute the moments of rows: `x: [n, g, K]`, `y: [n, g, M]`, n >= 1."""
        x, y = precise(x), precise(y)
        mean_x, mean_y = _sum(x) / len(x), _sum(y) / len(y)
        # The products run in the data's own precision: that is the whole cost of a fit.
        dx = _centred(x, mean_x)
        dy = _centred(y, mean_y)
        transposed = dx.transpose(0, 2, 1)
        # NumPy knows only of two-dimensional products of a matrix with itself that half is enough.
        gram = (dx[0].T @ dx[0])[None] if len(dx) == 1 else transposed @ dx
        return cls(
            rows=len(x),
            mean_x=mean_x,
            mean_y=mean_y,
            gram=gram.astype(np.float64),
            cross=(transposed @ dy).astype(np.float64),
            power=np.einsum("gnm,gnm->gm", dy, dy, dtype=np.float64),
        )

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together; exact, in any order."""
        rows = self.rows + other.rows
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.rows * other.rows / rows
        return Moments(
            rows=rows,
            mean_x=self.mean_x + dx * (other.rows / rows),
            mean_y=self.mean_y + dy * (other.rows / rows),
            gram=self.gram + other.gram + weight * dx[:, :, None] * dx[:, None, :],
            cross=self.cross + other.cross + weight * dx[:, :, None] * dy[:, None, :],
            power=self.power + other.power + weight * dy**2,
        )

    def about_zero(self) -> Moments:
        """Return raw moments, for a fit that may not have an intercept."""
        x, y = self.mean_x, self.mean_y
        return Moments(
            rows=self.rows,
            mean_x=np.zeros_like(x),
            mean_y=np.zeros_like(y),
            gram=self.gram + self.rows * x[:, :, None] * x[:, None, :],
            cross=self.cross + self.rows * x[:, :, None] * y[:, None, :],
            power=self.power + self.rows * y**2,
        )

    def intercept(self, weight: Array) -> Array64:
        """Return the best bias for a weight: `mean_y - mean_x W`, float64[g, M]."""
        predicted = np.einsum("gk,gkm->gm", self.mean_x, weight)
        return np.asarray(self.mean_y - predicted, np.float64)

    def error(self, weight: Array) -> Array64:
        """Return the squared error of a weight with its best bias, over all rows: [g, M]."""
        linear = np.einsum("gkm,gkm->gm", weight, self.cross)
        square = np.einsum("gkm,gkm->gm", weight, self.gram @ weight)
        return np.asarray(np.maximum(self.power - 2 * linear + square, 0.0), np.float64)


def cross_moments(rows: Sequence[tuple[Array, Array]]) -> tuple[Array64, Array64, Array64]:
    """Means of features and targets and their second moments, for a Gram matrix known already.

    Args:
        rows: blocks of `x: [n, g, K]`, `y: [n, g, M]`.

    Returns:
        `mean_x: float64[g, K]`, `mean_y: float64[g, M]` and `cross: float64[g, K, M]`, as in
        `Moments`.
    """
    count = sum(len(x) for x, _ in rows)
    mean_x = np.sum([_sum(precise(x)) for x, _ in rows], axis=0) / count
    mean_y = np.sum([_sum(precise(y)) for _, y in rows], axis=0) / count
    cross = np.zeros((*mean_x.shape, mean_y.shape[1]))
    for x, y in rows:
        dx, dy = _centred(precise(x), mean_x), _centred(precise(y), mean_y)
        cross += dx.transpose(0, 2, 1) @ dy
    return mean_x, mean_y, cross


def precise(values: Array) -> Array:
    """Return numbers whose squares overflow float32 as float64, all others as they are."""
    if values.dtype != np.float32 or not values.size:
        return values
    largest = max(float(values.max()), -float(values.min()))
    return values.astype(np.float64) if largest > _MAX_SQUARED else values


def _centred(rows: Array, mean: Array64) -> Array:
    """Subtract the mean of `[n, g, K]`, as a view `[g, n, K]` that BLAS takes as it is."""
    centred: Array = (rows - mean.astype(rows.dtype)).transpose(1, 0, 2)
    return centred


def _sum(rows: Array) -> Array64:
    """Sum `[n, ...]` over rows in float64, of which few are added in the rows' own precision."""
    whole = len(rows) // _ADDED * _ADDED
    flat = np.ascontiguousarray(rows[:whole]).reshape(-1, _ADDED, rows[0].size)
    parts = np.ones(_ADDED, rows.dtype) @ flat
    rest = rows[whole:].reshape(-1, rows[0].size).sum(axis=0, dtype=np.float64)
    total: Array64 = (parts.sum(axis=0, dtype=np.float64) + rest).reshape(rows.shape[1:])
    return total
