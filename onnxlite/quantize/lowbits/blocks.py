"""Which weights share a scale: a view of the weight in which some axes have one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxlite.ops import spec_of


@dataclass(frozen=True)
class Blocks:
    """A weight reshaped so that whole axes of it share a scale.

    Attributes:
        shape: of the weight.
        view: the same numbers, reshaped.
        reduced: the axes of `view` along which the scale is one.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    reduced: tuple[int, ...]

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales: broadcasts with `view`."""
        return tuple(1 if axis in self.reduced else n for axis, n in enumerate(self.view))

    @property
    def size(self) -> int:
        """Weights that share one scale."""
        return prod(self.view[axis] for axis in self.reduced)


def blocks_of(
    uses: tuple[tuple[ir.Node, int], ...], shape: tuple[int, ...], block_size: int
) -> Blocks:
    """One scale for every `block_size` weights that an operator adds up, per output channel.

    Args:
        uses: the nodes and ports that read the weight; the first one's operator decides.
        shape: of the weight.
        block_size: 0 for one scale per output channel. Otherwise the divisor of the number of
            summands is taken that is closest to it, within a factor of two; if there is none,
            one scale per output channel.
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
    """The divisor of `number` nearest to `wanted` by ratio; itself if none is within two."""
    near = range(max(1, -(-wanted // 2)), min(number, 2 * wanted) + 1)
    divisors = (d for d in near if not number % d)
    return min(divisors, key=lambda d: abs(math.log(d / wanted)), default=number)


def _summed(uses: tuple[tuple[ir.Node, int], ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that the first operator who knows adds products over; else the last one."""
    for node, port in uses:
        rule = spec_of(node).summed_axes
        if rule is not None and port in spec_of(node).weights:
            return rule(node, port)
    return (len(shape) - 1,)
