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

#: Steps of conjugate gradients: at most, and the fraction of the gain below which they
#: end.
_ITERATIONS, _MIN_GAIN = 60, 1e-4
#: Numbers in all systems of one layer up to which they are solved directly (128 MB).
_DIRECT_SIZE = 1 << 24

#: `(gram, cross, weight, ridge) -> weight`: how a layer's weight is found.
Solver: TypeAlias = Callable[[Array64, Array64, Array64, float], Array64]


def solve_full(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """Solve for all weights: `W = (G + lambda I)^-1 (C + lambda W_old)`."""
    penalty = _penalty(gram, ridge)
    size = gram.shape[-1]
    left = gram + penalty[:, None, None] * np.eye(size)
    return _solve(left, cross + penalty[:, None, None] * weight)


def solve_masked(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """Solve for the weights that are not zero, output by output.

    Every output has a support of its own, and so a system of its own. Small ones are solved
    directly, large ones all at once by conjugate gradients.
    """
    penalty = _penalty(gram, ridge)[:, None, None]
    left = gram + penalty * np.eye(gram.shape[-1])
    right = cross + penalty * weight
    if weight.size * len(left[0]) > _DIRECT_SIZE:
        parts = zip(left, right, weight, strict=True)
        return np.stack([_conjugate_gradients(*part) for part in parts])
    # Outside of the support the system is the identity and the right-hand side zero.
    support = (weight != 0).transpose(0, 2, 1)
    systems = np.where(support[..., None] & support[..., None, :], left[:, None], 0.0)
    systems += np.eye(gram.shape[-1]) * ~support[..., None, :]
    wanted = np.where(support, right.transpose(0, 2, 1), 0.0)[..., None]
    return np.ascontiguousarray(_solve(systems, wanted)[..., 0].transpose(0, 2, 1))


def _conjugate_gradients(left: Array64, right: Array64, start: Array64) -> Array64:
    """Solve `left W = right` on the support of `start`, for all columns in step.

    Conjugate gradients with the diagonal as preconditioner (Golub & Van Loan 2013, alg.
    11.5.1), in float32. Every step lowers the squared error; the last ones hardly do.
    """
    support = start != 0
    matrix = left.astype(np.float32)
    inverse = (1 / np.diag(left)).astype(np.float32)[:, None]
    found = start.astype(np.float32)
    residual = np.where(support, (right - left @ start).astype(np.float32), 0)
    scaled = inverse * residual
    direction = scaled
    slope = (residual * scaled).sum(axis=0)
    gained = 0.0
    for _ in range(_ITERATIONS):
        image = np.where(support, matrix @ direction, 0)
        curvature = (direction * image).sum(axis=0)
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        found += step * direction
        residual -= step * image
        gain = float((step * slope).sum())
        gained += gain
        if gain <= _MIN_GAIN * gained:
            break
        scaled = inverse * residual
        new_slope = (residual * scaled).sum(axis=0)
        turn = np.divide(new_slope, slope, out=np.zeros_like(slope), where=slope > 0)
        direction, slope = scaled + turn * direction, new_slope
    return found.astype(np.float64)


def solve_affine(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """Solve for a factor per output: with z = X w_old, `s = (z'y + lambda') / (z'z + lambda')`.

    Here lambda' is `ridge * z'z`. Any grid of values per output channel stays such a grid.
    """
    square = np.einsum("gkm,gkm->gm", weight, gram @ weight)
    mixed = np.einsum("gkm,gkm->gm", weight, cross)
    pull = ridge * square
    scale = np.divide(mixed + pull, square + pull, out=np.ones_like(square), where=square > 0)
    scaled: Array64 = weight * scale[:, None, :]
    return scaled


def solve_bias(gram: Array64, cross: Array64, weight: Array64, ridge: float) -> Array64:
    """Keep the weight; only the intercept that belongs to it is new."""
    del gram, cross, ridge
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
