"""Integer codes of a weight: blocks, scales, zero points and round-to-nearest.

    code = clip(round(w / scale + zero), 0, levels - 1)        w ~ (code - zero) * scale

All functions take the weight in the view of `Blocks` and reduce over its `reduced` axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.ops import spec_of
from onnxlite.packing import WeightType


@dataclass(frozen=True)
class Blocks:
    """View of a weight in which whole axes have one scale.

    Attributes:
        shape: shape of the weight.
        view: shape of the view.
        reduced: axes of `view` along which all numbers have the same scale.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    reduced: tuple[int, ...]

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales; it broadcasts with `view`."""
        return tuple(1 if axis in self.reduced else n for axis, n in enumerate(self.view))

    @property
    def size(self) -> int:
        """Number of weights per scale."""
        return prod(self.view[axis] for axis in self.reduced)


def blocks_of(
    uses: tuple[tuple[ir.Node, int], ...], shape: tuple[int, ...], block_size: int
) -> Blocks:
    """Split a weight into blocks of `block_size` summands of one output channel.

    Args:
        uses: the nodes and ports that read the weight; the first node defines the axes.
        shape: shape of the weight.
        block_size: 0 for one scale per output channel. Otherwise the block is the divisor of
            the number of summands closest to it, within a factor of two; without such a
            divisor there is one scale per output channel.
    """
    axes = _summed(uses, shape)
    first, last = axes[0], axes[-1]
    if axes != tuple(range(first, last + 1)):
        return Blocks(shape, shape, axes)
    summands = prod(shape[axis] for axis in axes)
    block = closest_divisor(summands, block_size) if block_size else summands
    view = (*shape[:first], summands // block, block, *shape[last + 1 :])
    if block == summands:
        return Blocks(shape, shape, axes)
    return Blocks(shape, view, (first + 1,))


def closest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of `number` closest to `wanted`, else `number`.

    Distance is a ratio; it must be at most two."""
    near = range(max(1, -(-wanted // 2)), min(number, 2 * wanted) + 1)
    divisors = (d for d in near if not number % d)
    return min(divisors, key=lambda d: abs(math.log(d / wanted)), default=number)


def _summed(uses: tuple[tuple[ir.Node, int], ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that an operator sums products over; by default the last one."""
    for node, port in uses:
        rule = spec_of(node).summed_axes
        if rule is not None and port in spec_of(node).weights:
            return rule(node, port)
    return (len(shape) - 1,)


Array: TypeAlias = NDArray[Any]
Axes: TypeAlias = tuple[int, ...]
#: Scales and zero points, shaped like `Blocks.scale_shape`; None for zero points in the middle.
Levels: TypeAlias = tuple[Array, Array | None]

_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class Coding:
    """Levels, scales and zero points of one weight.

    Attributes:
        kind: the levels.
        scale: float32, or float16 if all scales are normal numbers there; `scale_shape`.
        zero: zero points in the shape of `scale`: uint8, float16 for fractional zero points,
            or None if all of them are the middle level.
    """

    kind: WeightType
    scale: Array
    zero: Array | None = None

    def encode(self, view: Array, rows: slice = slice(None)) -> NDArray[np.uint8]:
        """Return the nearest codes of some rows of a weight."""
        scale = self._rows(self.scale, rows).astype(np.float32)
        exact = view / np.where(scale == 0, np.float32(1), scale)
        exact += self._zero(rows)
        np.rint(exact, out=exact)
        np.clip(exact, 0, self.kind.levels - 1, out=exact)
        return exact.astype(np.uint8)

    def decode(self, codes: NDArray[np.uint8], rows: slice = slice(None)) -> NDArray[np.float32]:
        """Dequantize codes with the same arithmetic as the decoding nodes."""
        shifted = codes.astype(np.float32) - self._zero(rows)
        decoded: NDArray[np.float32] = shifted * self._rows(self.scale, rows).astype(np.float32)
        return decoded

    def _zero(self, rows: slice) -> NDArray[np.float32]:
        if self.zero is None:
            return np.array(self.kind.middle, np.float32)
        return self._rows(self.zero, rows).astype(np.float32)

    @staticmethod
    def _rows(array: Array, rows: slice) -> Array:
        return array if array.shape[0] == 1 else array[rows]


def coding(kind: WeightType, scale: Array, zero: Array | None = None) -> Coding:
    """Make a coding; scales become float16 if all of them are normal numbers there.

    Rounding a scale to 11 significant bits changes a weight by at most 1/2048, an eighth of a
    step for 8 bits and less for fewer.
    """
    magnitude = np.abs(scale[scale != 0])
    fits = not magnitude.size or (magnitude.min() >= _HALF.tiny and magnitude.max() <= _HALF.max)
    stored = scale.astype(np.float16 if fits else np.float32)
    if zero is None:
        return Coding(kind, stored)
    whole = bool((zero == np.rint(zero)).all())
    return Coding(kind, stored, zero.astype(np.uint8 if whole else np.float16))


def nearest_levels(kind: WeightType, view: Array, reduced: Axes, *, free_zero: bool) -> Levels:
    """Find scales and zero points for round-to-nearest from the range of each block.

    Ternary and binary weights take the scale of least squared error instead: it is far below
    the largest weight.

    Args:
        kind: the levels.
        view: the weight.
        reduced: axes of the view with one scale.
        free_zero: find a zero point per block, if the type has one.
    """
    if kind.levels == 2:
        return 2 * _binary_scale(view, reduced), None
    if kind.levels == 3:
        return _ternary_scale(view, reduced), None
    low = np.minimum(view.min(axis=reduced, keepdims=True), 0)
    high = np.maximum(view.max(axis=reduced, keepdims=True), 0)
    if free_zero and kind.free_zero:
        scale = (high - low) / (kind.levels - 1)
        safe = np.where(scale > 0, scale, 1)
        zero = np.clip(np.rint(-low / safe), 0, kind.levels - 1)
        return np.where(scale > 0, scale, 0), zero
    # There is one more level below zero than above: use it for the side with the larger range.
    larger = np.where(high > -low, high, low)
    return larger / -kind.middle, None


def _binary_scale(view: Array, reduced: Axes) -> Array:
    """Return the mean magnitude, of least squared error (Rastegari et al. 2016, eq. 6)."""
    scale: Array = np.abs(view).mean(axis=reduced, keepdims=True)
    return scale


def _ternary_scale(view: Array, reduced: Axes) -> Array:
    """Return the scale of least squared error for the levels {-1, 0, 1}.

    With the k largest magnitudes at level 1 the best scale is their mean, and the squared error
    falls by (their sum)^2 / k. Every k is tried (Li et al. 2016, eq. 6, without the
    approximation). Rounding to nearest reproduces the optimum: its threshold is half the scale.
    """
    kept = [axis for axis in range(view.ndim) if axis not in reduced]
    rows = np.abs(view).transpose(*kept, *reduced)
    rows = rows.reshape(*rows.shape[: len(kept)], -1)
    falling = -np.sort(-rows, axis=-1)
    sums = falling.cumsum(axis=-1, dtype=np.float64)
    count = np.arange(1, falling.shape[-1] + 1)
    best = (sums**2 / count).argmax(axis=-1)[..., None]
    scale = np.take_along_axis(sums, best, axis=-1) / (best + 1)
    shape = [1 if axis in reduced else n for axis, n in enumerate(view.shape)]
    found: Array = scale.reshape(shape).astype(view.dtype)
    return found
