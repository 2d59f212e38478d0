"""Factorisation of second moments: made once per layer, for all fits and roundings of it.

With H = G + lambda I and the features in an order, H = R R' with R upper triangular (Cholesky from
the last feature to the first), so that U = R^-1 is upper triangular and `U'U = H^-1`. U is what
compensated rounding needs (Frantar et al. 2023, GPTQ), and two products with it solve for weights.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array64: TypeAlias = NDArray[np.float64]

#: Triangles up to this size are inverted directly.
_DIRECT = 64
#: A damping that failed is multiplied by this.
_MORE = 10.0


class Factor:
    """Factor of `G + lambda I`, lambda = ridge * mean(diag(G)), for g independent groups.

    Args:
        gram: float64[g, K, K], positive semidefinite.
        ridge: not negative; it is raised where the sum is singular.
        order: intp[g, K], the features in the order of rounding; by default those with the
            largest second moments come first.

    Attributes:
        order: the order used.
        upper: U in that order, float64[g, K, K].
        penalty: lambda of each group, float64[g].
    """

    def __init__(self, gram: Array64, ridge: float, order: NDArray[np.intp] | None = None) -> None:
        power = np.diagonal(gram, axis1=1, axis2=2)
        if order is None:
            order = np.argsort(-power, axis=1, kind="stable")
        self.order = order
        self._each = np.arange(len(gram))[:, None]
        self._back = np.argsort(order, axis=1)
        # From the last feature to the first: the factor of a matrix turned round is upper.
        turned = order[:, ::-1]
        ordered = gram[self._each[..., None], turned[:, :, None], turned[:, None, :]]
        lower, self.penalty = _cholesky(ordered, ridge, power.mean(axis=1))
        self.upper = inverse_of_upper(np.ascontiguousarray(lower[:, ::-1, ::-1]))

    def ordered(self, values: Array64) -> Array64:
        """Put `[g, K, ...]` into the order of features."""
        return values[self._each, self.order]

    def restored(self, values: Array64) -> Array64:
        """Undo `ordered`."""
        return values[self._each, self._back]

    def solve(self, right: Array64) -> Array64:
        """Return `(G + lambda I)^-1 right` for `right: float64[g, K, M]`."""
        return self.restored(self.upper.transpose(0, 2, 1) @ (self.upper @ self.ordered(right)))

    def solve_on(self, right: Array64, support: NDArray[np.bool_]) -> Array64:
        """Solve for weights that are zero outside of `support: bool[g, K, M]`, which has few zeros.

        The solution without zeros is moved onto the support by as many conditions as an output
        has zeros: `W - H^-1[:, S] (H^-1[S, S])^-1 W[S]`.
        """
        found = self.solve(right)
        for group, output in zip(*np.nonzero(~support.all(axis=1)), strict=True):
            zeros = np.flatnonzero(~support[group, :, output])
            columns = self._inverse[group][:, zeros]
            found[group, :, output] -= columns @ np.linalg.solve(
                columns[zeros], found[group, zeros, output]
            )
            found[group, zeros, output] = 0.0
        return found

    @cached_property
    def _inverse(self) -> Array64:
        """`(G + lambda I)^-1` in the order of the Gram matrix."""
        inverse = self.upper.transpose(0, 2, 1) @ self.upper
        back = self._back
        return np.asarray(inverse[self._each[..., None], back[:, :, None], back[:, None, :]])


def inverse_of_upper(matrix: Array64) -> Array64:
    """Invert upper triangular matrices, float64[g, K, K], by halves: most of it is products."""
    size = matrix.shape[-1]
    if size <= _DIRECT:
        return np.asarray(np.linalg.inv(matrix), np.float64)
    half = size // 2
    first, last = (
        inverse_of_upper(np.ascontiguousarray(part))
        for part in (matrix[:, :half, :half], matrix[:, half:, half:])
    )
    result = np.zeros_like(matrix)
    result[:, :half, :half], result[:, half:, half:] = first, last
    result[:, :half, half:] = -(first @ matrix[:, :half, half:]) @ last
    return result


def _cholesky(gram: Array64, ridge: float, mean: Array64) -> tuple[Array64, Array64]:
    """Return the lower factor of the damped matrix, and the damping of each group."""
    least = np.finfo(np.float32).tiny
    while True:
        penalty: Array64 = np.maximum(ridge * mean, least)
        try:
            damped = gram + penalty[:, None, None] * np.eye(gram.shape[-1])
            return np.asarray(np.linalg.cholesky(damped), np.float64), penalty
        except np.linalg.LinAlgError:
            ridge = max(ridge * _MORE, 1e-12)
            if not np.isfinite(ridge) or ridge > 1e6:
                raise
