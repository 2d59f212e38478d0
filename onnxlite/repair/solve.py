"""Least squares from second moments: the weights that best give the outputs wanted.

All functions take `gram = X'X` (float64[g, K, K]), `cross = X'Y` (float64[g, K, M]) and the
present weight (float64[g, K, M]), for g independent groups, and return a new weight. Every
one minimises

    |Y - X W|^2 + lambda |W - W_old|^2,   lambda = ridge * mean(diag(gram)),

over its own set of weights: all, those of a support, multiples of the old columns, or the
old weight alone. The pull towards the old weight decides where the samples say nothing.
The bias follows from the means (`Moments.intercept`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array64: TypeAlias = NDArray[np.float64]

#: `(gram, cross, weight, ridge) -> weight`: how a layer's weight is found.
Solver: TypeAlias = Callable[[Array64, Array64, Array64, float], Array64]


def solve_full(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """All weights are free: `W = (G + lambda I)^-1 (C + lambda W_old)`."""
    penalty = _penalty(gram, ridge)
    size = gram.shape[-1]
    left = gram + penalty[:, None, None] * np.eye(size)
    return _solve(left, cross + penalty[:, None, None] * weight)


def solve_masked(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """Weights that are zero stay zero; the others make up for them, output by output.

    Outputs with the same support are solved together, so that a weight without zeros, or
    with whole input channels of zeros, costs one solution.
    """
    penalty = _penalty(gram, ridge)
    result = np.zeros_like(weight)
    for group in range(len(weight)):
        supports, members = np.unique(weight[group] != 0, axis=1, return_inverse=True)
        for index in range(supports.shape[1]):
            rows, columns = np.flatnonzero(supports[:, index]), np.flatnonzero(members == index)
            if not rows.size:
                continue
            left = gram[group][np.ix_(rows, rows)] + penalty[group] * np.eye(rows.size)
            place = np.ix_(rows, columns)
            right = cross[group][place] + penalty[group] * weight[group][place]
            result[group][place] = _solve(left, right)
    return result


def solve_affine(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """One factor per output: with z = X w_old, `s = (z'y + lambda') / (z'z + lambda')`.

    Here lambda' is `ridge * z'z`. Any grid of values per output channel stays such a grid.
    """
    square = np.einsum("gkm,gkm->gm", weight, gram @ weight)
    mixed = np.einsum("gkm,gkm->gm", weight, cross)
    pull = ridge * square
    scale = np.divide(mixed + pull, square + pull, out=np.ones_like(square), where=square > 0)
    scaled: Array64 = weight * scale[:, None, :]
    return scaled


def solve_bias(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """The weight stays; only the intercept that belongs to it is new."""
    return weight


def _penalty(gram: Array64, ridge: float) -> Array64:
    """Lambda of each group; above zero, so that dead features keep the old weight."""
    mean = np.diagonal(gram, axis1=1, axis2=2).mean(axis=1)
    penalty: Array64 = np.maximum(ridge * mean, np.finfo(np.float32).tiny)
    return penalty


def _solve(left: Array64, right: Array64) -> Array64:
    """Solve a positive (semi)definite system; the shortest solution if it is singular."""
    try:
        return np.asarray(np.linalg.solve(left, right), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(left, hermitian=True) @ right, np.float64)
