"""N:M sparsity: at most N nonzero weights in every M consecutive ones.

Sparse tensor cores support 2:4 (Mishra et al. 2021). A block lies along the summed axis: its
weights belong to one output; in a convolution they are adjacent input channels at one kernel
position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.ops import Parameter, spec_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Pattern:
    """At most `keep` nonzero weights in every `block` along the summed axis."""

    keep: int
    block: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read `"2:4"`; raises `OptionError` unless 0 < N < M."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 0 < int(match[1]) < int(match[2]) <= 64:
            raise OptionError(f"pattern={text!r}: give N:M with 0 < N < M <= 64, such as '2:4'")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.keep}:{self.block}"

    @property
    def fraction(self) -> float:
        """Fraction of zeros."""
        return 1 - self.keep / self.block

    def refusal(self, parameter: Parameter) -> str | None:
        """Reason why a weight cannot have this pattern, or None."""
        axis = summed_axis(parameter)
        if axis is None:
            return f"{parameter.node.op_type} does not sum products along an axis of its weight"
        size = int(parameter.tensor.shape.numpy()[axis])
        if size % self.block:
            return f"it sums {size} products per output, which is not a multiple of {self.block}"
        return None

    def zeroed(self, array: Array, axis: int) -> Array:
        """Copy `array` and zero all but the `keep` largest weights of each block."""
        moved = np.moveaxis(array, axis, -1)
        blocks = np.abs(moved.astype(np.float32)).reshape(*moved.shape[:-1], -1, self.block)
        ranks = np.argsort(np.argsort(blocks, axis=-1, kind="stable"), axis=-1)
        kept = (ranks >= self.block - self.keep).reshape(moved.shape)
        return np.where(np.moveaxis(kept, -1, axis), array, array.dtype.type(0))

    def follows(self, array: Array, axis: int) -> bool:
        """Return True if no block has more than `keep` nonzero numbers."""
        moved = np.moveaxis(array, axis, -1)
        blocks = moved.reshape(*moved.shape[:-1], -1, self.block)
        return bool((np.count_nonzero(blocks, axis=-1) <= self.keep).all())


def summed_axis(parameter: Parameter) -> int | None:
    """Axis of a weight along which blocks lie: input channels or features."""
    rule = spec_of(parameter.node).summed_axes
    axes = rule(parameter.node, parameter.port) if rule is not None else ()
    return axes[0] if axes else None


def axis_order(arranged: Array, shape: tuple[int, ...], axis: int) -> NDArray[np.intp]:
    """Order features so that neighbours along `axis` of the weight are consecutive.

    Args:
        arranged: int[K], the flat position in the weight of each feature of one output.
        shape: shape of the weight.
        axis: axis of the weight along which blocks lie.
    """
    places = list(np.unravel_index(arranged, shape))
    along = places.pop(axis)
    order: NDArray[np.intp] = np.lexsort((along, *places)).astype(np.intp)
    return order
