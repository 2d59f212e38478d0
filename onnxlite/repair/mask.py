"""Sparsity masks as grids: choose the weights of a layer that stay, and refit them.

For a layer `Y = X W` with `H = X'X` the weight `W` of least squares is to be given zeros at
the least `(W - Q)' H (W - Q)`. Three ways to choose what stays are tried:

- the products of magnitude and the feature's norm (Sun et al. 2023, Wanda);
- `w_k^2 / U_kk^2` feature after feature, U the upper Cholesky factor of H^-1, each zero made up
  for by the features behind it (Frantar & Alistarh 2023, SparseGPT, alg. 1);
- alternating projections with growing sparsity (Boza 2024, alg. 3).

Each time the weights that stay are then solved for exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.factor import Factor
from onnxlite.repair.grid import Grid
from onnxlite.repair.least_squares import solve_weights
from onnxlite.repair.rounding import Rounder

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: How the weights that stay are chosen and corrected.
MaskMethod = Literal["wanda", "obc"]

#: Features that get their zeros together.
_BLOCK = 64
#: Rounds of alternating projections: while the sparsity grows, and in all.
_GROWING, _ROUNDS = 16, 24
_DAMPING = 0.01
_TINY = float(np.finfo(np.float64).tiny)
_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Mask of the weights `[g, K, M]` of a layer that may be other than zero.

    Attributes:
        sparsity: fraction of zeros, where there is no pattern.
        keep: of every `block` features as many may be other than zero; 0 for no pattern.
        block: how many features make a block.
        order: intp[K], features in an order in which blocks are consecutive.
        method: `"wanda"` changes nothing but what becomes zero, and chooses per output.
        shared: as of a grid; there is no scale to be fitted.
    """

    sparsity: float = 0.0
    keep: int = 0
    block: int = 0
    order: NDArray[np.intp] | None = None
    method: MaskMethod = "obc"
    shared: bool = True

    def kept(self, score: Array, sparsity: float | None = None) -> NDArray[np.bool_]:
        """Mark the weights of highest score, bool[g, K, M].

        Args:
            score: not negative; zeros stay zeros.
            sparsity: instead of the mask's, smaller.
        """
        if self.block:
            return self._pattern(score)
        sparsity = self.sparsity if sparsity is None else sparsity
        if self.method == "wanda":
            count = round(sparsity * score.shape[1])
            ranks = np.argsort(np.argsort(score, axis=1, kind="stable"), axis=1)
            chosen: NDArray[np.bool_] = (ranks >= count) & (score > 0)
            return chosen
        count = round(sparsity * score.size)
        kept = score > 0
        lowest = np.argsort(score, axis=None, kind="stable")[:count]
        kept.reshape(-1)[lowest] = False
        return kept

    def _pattern(self, score: Array) -> NDArray[np.bool_]:
        groups, features, outputs = score.shape
        order = np.arange(features) if self.order is None else self.order
        blocks = score[:, order].reshape(groups, features // self.block, self.block, outputs)
        ranks = np.argsort(np.argsort(blocks, axis=2, kind="stable"), axis=2)
        kept = np.zeros(score.shape, bool)
        kept[:, order] = (ranks >= self.block - self.keep).reshape(score.shape)
        return kept & (score > 0)

    def start_scale(self, weight: Array64) -> Array64:
        """Return ones, `[g, M]`: a mask has no scale."""
        return np.ones((weight.shape[0], weight.shape[2]))

    def spread(self, scale: Array64) -> Array64:
        """Return the scale of every weight, `[g, 1, M]`."""
        return scale[:, None]

    def times(self, scale: Array64, factor: Array64) -> Array64:
        """Return ones: a factor per output goes into the weights themselves."""
        return np.ones_like(scale * factor)

    def nearest(self, weight: Array64, scale: Array64) -> Array64:
        """Return the weight with its smallest numbers zero."""
        del scale
        return np.where(self.kept(np.abs(weight)), weight, 0.0)


class Masker:
    """Puts zeros into the weights of one layer; what depends on the features is made once.

    Args:
        moments: of the layer's features and wanted outputs.
        mask: how many zeros, and where they may be.
    """

    def __init__(self, moments: Moments, mask: Mask) -> None:
        self._moments, self._mask = moments, mask
        self._gram = moments.gram
        power = np.diagonal(self._gram, axis1=1, axis2=2)
        mean = np.maximum(power.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        self._norm = np.sqrt(power + _DAMPING * mean)[..., None]

    def ways(self, weight: Array64) -> Iterator[tuple[Array64, Array64]]:
        """Yield weights with zeros, float64[g, K, M], each with a scale of ones."""
        mask = self._mask
        ones = mask.start_scale(weight)
        by_norm = mask.kept(np.abs(weight) * self._norm)
        if mask.method == "wanda":
            yield np.where(by_norm, weight, 0.0), ones
            return
        for masked in (
            np.where(by_norm, weight, 0.0),
            self._one_by_one(weight),
            self._alternating(weight),
        ):
            yield self._solved(masked), ones

    def quick(self, weight: Array64) -> tuple[Array64, float]:
        """Return one good choice of zeros, and its squared error beyond that of `weight`."""
        masked = self._alternating(weight)
        return masked, self.excess(weight, masked)

    def excess(self, weight: Array64, masked: Array64) -> float:
        """`sum (W - Q)' H (W - Q)` over outputs."""
        lost = weight - masked
        return float(np.einsum("gkm,gkm->", lost, self._gram @ lost))

    def _solved(self, masked: Array64) -> Array64:
        return solve_weights(self._fitting, self._gram, self._moments.cross, masked)

    @cached_property
    def _fitting(self) -> Factor:
        return Factor(self._gram, _RIDGE)

    def _one_by_one(self, weight: Array64) -> Array64:
        """Run SparseGPT: features in their order, the next ones make up for each zero."""
        mask, size = self._mask, weight.shape[1]
        order = np.arange(size) if mask.order is None else mask.order
        given = np.broadcast_to(order, (len(weight), size))
        upper = Factor(self._gram, _DAMPING, given).upper
        work = weight[:, order].copy()
        block = _BLOCK if not mask.block else max(mask.block, _BLOCK // mask.block * mask.block)
        gone = 0
        for start in range(0, size, block):
            stop = min(start + block, size)
            diagonal = np.diagonal(upper[:, start:stop, start:stop], axis1=1, axis2=2)
            score = np.abs(work[:, start:stop]) / diagonal[..., None]
            score = np.where(weight[:, order[start:stop]] != 0, score + _TINY, 0.0)
            # Counted from the first feature on, so that rounding does not add up.
            wanted = round(mask.sparsity * weight[:, :stop].size) - gone
            part = replace(mask, sparsity=max(wanted, 0) / score.size, order=None)
            kept = part.kept(score)
            gone += score.size - int(np.count_nonzero(kept))
            errors = np.zeros_like(work[:, start:stop])
            for k in range(start, stop):
                masked = np.where(kept[:, k - start], work[:, k], 0.0)
                error = (work[:, k] - masked) / upper[:, k, k, None]
                work[:, k] = masked
                work[:, k + 1 : stop] -= upper[:, k, k + 1 : stop, None] * error[:, None]
                errors[:, k - start] = error
            work[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
        restored = np.zeros_like(work)
        restored[:, order] = work
        return restored

    def _alternating(self, weight: Array64) -> Array64:
        """Alternate between the best fit and enough zeros, whose number grows (Boza 2024)."""
        mask, norm = self._mask, self._norm
        size = weight.shape[1]
        gram = self._gram / norm / norm.transpose(0, 2, 1)
        gram = gram + _DAMPING * np.eye(size)
        target = gram @ (weight * norm)
        inverse = np.linalg.inv(gram + np.eye(size))
        support = weight != 0
        found = weight * norm
        dual = np.zeros_like(found)
        kept = support
        for turn in range(1, _ROUNDS + 1):
            if turn <= _GROWING:
                sparsity = mask.sparsity * (1 - (1 - turn / _GROWING) ** 3)
                kept = mask.kept(np.where(support, np.abs(found + dual), 0.0), sparsity)
            projected = np.where(kept, found + dual, 0.0)
            dual = dual + found - projected
            found = inverse @ (target + projected - dual)
        result: Array64 = np.where(kept, found + dual, 0.0) / norm
        return result


def rounder_of(
    moments: Moments, grid: Grid | Mask, factor: Factor | None = None
) -> Rounder | Masker:
    """Return what puts weights on a grid, or zeros into them.

    Args:
        moments: of the layer.
        grid: of its weights.
        factor: of the moments with `DAMPING`, if there is one; a mask has no use for it.
    """
    return Masker(moments, grid) if isinstance(grid, Mask) else Rounder(moments, grid, factor)
