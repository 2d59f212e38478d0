"""Regression data of one layer: its present state, and rows of features and wanted outputs.

Rows that a fit may use are kept as second moments, those held out as they are. Whole feeds are
held out where there are enough of them: rows of one sample are alike, so that others of its
rows would be no check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.moments import Moments
from onnxlite.holdout import EveryKth
from onnxlite.repair.grid import Grid
from onnxlite.repair.mask import Mask
from onnxlite.repair.options import FitMethod, Method

Array = NDArray[Any]
Array64 = NDArray[np.float64]

#: Bounds of an activation, `(low, high)`; infinite where it does not clip.
Clip: TypeAlias = tuple[float, float]
NO_CLIP: Clip = (-math.inf, math.inf)

#: Feeds that no layer is fitted to; of fewer feeds than the minimum, rows of each.
HOLD_OUT = EveryKth(8, minimum=4)
_ROWS_HELD_OUT = EveryKth(8)

#: Rows multiplied at once: enough for the matrix product to run at full speed; fewer where
#: they are so many numbers (32 MB), as of a depthwise layer.
BLOCK_ROWS, _BLOCK_NUMBERS = 2048, 1 << 23
#: Rows per unknown beyond which more of them do not improve a fit, and the least number.
_ROWS_PER_FEATURE, _MIN_ROWS = 96, 2048
#: A Gram matrix of more features than this is not formed (0.5 GB in float64).
MAX_FEATURES = 8192
#: The same for weights on a fine grid: of an EEG net's layer of 5,760 features the result has
#: 57.9 dB both ways, in 2 instead of 14 seconds.
_MAX_FEATURES_IF_FINE = 2304
#: Rows are kept, to be fitted once more behind the activation, up to so many numbers (256 MB).
_MAX_KEPT_NUMBERS = 1 << 26


def rows_wanted(features: int, max_rows: int) -> int:
    """Return the rows that a fit of so many features per output should have."""
    return min(max(_ROWS_PER_FEATURE * (features + 1), _MIN_ROWS), max_rows)


def rows_held_out(count: int, feed: int, feeds: int) -> NDArray[np.bool_]:
    """Mark the rows held out of `count` rows of one feed: all, none, or every eighth."""
    if HOLD_OUT.enough(feeds):
        return np.full(count, HOLD_OUT.mask(feeds)[feed])
    return _ROWS_HELD_OUT.mask(count)


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
        """Return the rows marked."""
        return Block(*(part[chosen] for part in self))

    @classmethod
    def join(cls, blocks: Sequence[Block]) -> Block:
        """Put the rows of several blocks together."""
        return cls(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """A layer before its fit, and what the fit may change.

    Attributes:
        weight: the present weight, float64[g, K, M].
        bias: the present bias, float64[g, M].
        method: which solutions are tried.
        fixed_weight: nothing but the bias may change.
        has_bias: whether there is a bias to change.
        clip: of the activation behind the layer.
        passes: how often the fit is repeated with regard to that activation.
        grid: that the new weight must lie on; the present one is then taken as rounded to it.
    """

    weight: Array64
    bias: Array64
    method: Method = "auto"
    fixed_weight: bool = False
    has_bias: bool = True
    clip: Clip = NO_CLIP
    passes: int = 1
    grid: Grid | Mask | None = None

    @property
    def per_channel(self) -> bool:
        """True if only the output is fitted, by a factor and a bias per channel."""
        limited = self.fixed_weight or self.method in ("affine", "bias")
        fine = isinstance(self.grid, Grid) and self.grid.fine
        return limited or self.weight.shape[1] > (_MAX_FEATURES_IF_FINE if fine else MAX_FEATURES)

    @property
    def methods(self) -> tuple[FitMethod, ...]:
        """Ways to solve that are tried."""
        if self.fixed_weight:
            return ("bias",)
        if self.method in ("affine", "bias"):
            return (self.method,)
        if self.per_channel:
            return ("affine", "bias")
        return ("full", "affine", "bias") if self.method == "auto" else (self.method,)

    @property
    def passes_behind_clip(self) -> int:
        """Number of fits with regard to the activation; 0 where it does not clip."""
        again = self.clip != NO_CLIP and self.has_bias and not self.per_channel
        return self.passes if again and "full" in self.methods else 0

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Outputs that are zero altogether, bool[g, M]; they stay so.

        They are about to be removed, or were.
        """
        dead: NDArray[np.bool_] = ~self.weight.any(axis=1) & (self.bias == 0)
        return dead

    @cached_property
    def grid_scale(self) -> Array64 | None:
        """Scale of the present weight on its grid, None without one."""
        return None if self.grid is None else self.grid.start_scale(self.weight)

    @cached_property
    def rounded(self) -> Array64:
        """Present weight, on its grid if there is one: float64[g, K, M]."""
        if self.grid is None or self.grid_scale is None:
            return self.weight
        return self.grid.nearest(self.weight, self.grid_scale) * self.grid.spread(self.grid_scale)


class RegressionRows:
    """Rows of one layer: those to fit, as moments, and those held out, as they are.

    Where only a factor per channel is fitted, the features are the layer's present outputs.
    """

    def __init__(self, state: LayerState) -> None:
        self.state = state
        self.count = 0
        self.kept: list[Block] = []
        self._moments: Moments | None = None
        self._buffer: list[Block] = []
        self._held_out: list[Block] = []
        self._broken = False

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
        if self.state.per_channel:
            block = Block(x, *(part.reshape(len(x), -1, 1) for part in (y, addend)))
        self._held_out.append(block.take(held_out))
        self._buffer.append(block.take(~held_out))
        self.count += len(x)
        rows, numbers = (sum(sizes) for sizes in zip(*map(_size, self._buffer), strict=True))
        if rows >= BLOCK_ROWS or numbers >= _BLOCK_NUMBERS:
            self._flush()

    def _reduced(self, x: Array) -> Array:
        x = np.asarray(x, np.result_type(x.dtype, np.float32))
        if not self.state.per_channel:
            return x
        product = x.transpose(1, 0, 2) @ self.state.rounded.astype(x.dtype)
        channels: Array = product.transpose(1, 0, 2).reshape(len(x), -1, 1)
        return channels

    def _flush(self) -> None:
        if not self._buffer:
            return
        block = Block.join(self._buffer)
        self._buffer.clear()
        if not len(block.x):
            return
        moments = Moments.of(block.x, block.y)
        self._moments = moments if self._moments is None else self._moments.merge(moments)
        keep = self.state.passes_behind_clip
        if keep and sum(kept.x.size for kept in self.kept) < _MAX_KEPT_NUMBERS:
            self.kept.append(block)

    def moments(self) -> Moments | None:
        """Moments of the rows to be fitted; None where they are too few or not finite."""
        self._flush()
        return None if self._broken else self._moments

    def held_out(self) -> Block | None:
        """Return the rows held out; None where there are none."""
        block = Block.join(self._held_out) if self._held_out else None
        return None if block is None or not len(block.x) else block

    @property
    def broken(self) -> bool:
        """True if some row was NaN or infinite."""
        return self._broken


def _size(block: Block) -> tuple[int, int]:
    """Rows and numbers of features of a block."""
    return len(block.x), block.x.size
