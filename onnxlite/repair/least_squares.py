"""Least squares from second moments: the weights that best give the outputs wanted.

The functions take `gram = X'X` (float64[g, K, K]), `cross = X'Y` (float64[g, K, M]) and the
present weight (float64[g, K, M]), for g independent groups, and return a new weight. Both
minimise

    |Y - X W|^2 + lambda |W - W_old|^2,   lambda = ridge * mean(diag(gram)),

over a set of weights: those of a support, or multiples of the old columns. The pull towards the
old weight decides where the samples say nothing. The bias follows from the means
(`Moments.intercept`).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.repair.factor import Factor

Array64: TypeAlias = NDArray[np.float64]

#: Steps of conjugate gradients: at most, and the fraction of the gain below which they
#: end.
_ITERATIONS, _MIN_GAIN = 60, 1e-4
#: Numbers in all systems of one layer up to which they are solved directly (128 MB).
_DIRECT_SIZE = 1 << 24

#: Zeros of an output, as a fraction of its features, that count as few.
_FEW_ZEROS = 0.25


def solve_weights(factor: Factor, gram: Array64, cross: Array64, weight: Array64) -> Array64:
    """Solve for all weights that are not zero: `W = (G + lambda I)^-1 (C + lambda W_old)`.

    An output with zeros has a support, and so a system, of its own. Few zeros are conditions on the
    solution for all weights; small systems are solved directly, large ones with many zeros all at
    once by conjugate gradients.

    Args:
        factor: of `gram`, with the ridge.
        gram: `X'X`.
        cross: `X'Y`.
        weight: the present weight.
    """
    penalty = factor.penalty[:, None, None]
    right = cross + penalty * weight
    support = weight != 0
    if support.all():
        return factor.solve(right)
    size = gram.shape[-1]
    if (~support).sum(axis=1).max() <= size * _FEW_ZEROS:
        return factor.solve_on(right, support)
    left = gram + penalty * np.eye(size)
    if weight.size * size > _DIRECT_SIZE:
        parts = zip(left, right, weight, strict=True)
        return np.stack([_conjugate_gradients(*part) for part in parts])
    # Outside of the support the system is the identity and the right-hand side zero.
    chosen = support.transpose(0, 2, 1)
    systems = np.where(chosen[..., None] & chosen[..., None, :], left[:, None], 0.0)
    systems += np.eye(size) * ~chosen[..., None, :]
    wanted = np.where(chosen, right.transpose(0, 2, 1), 0.0)[..., None]
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


def _solve(left: Array64, right: Array64) -> Array64:
    """Solve a positive (semi)definite system; the shortest solution if it is singular."""
    try:
        return np.asarray(np.linalg.solve(left, right), np.float64)
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.pinv(left, hermitian=True) @ right, np.float64)
