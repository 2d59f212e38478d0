"""N:M sparsity: at most N nonzero weights of every M consecutive ones in a sum.

2:4 is what sparse tensor cores multiply (Mishra et al. 2021). The weights of a block belong to
one output; in a convolution they are neighbouring input channels at one kernel position.
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
    """`keep` of every `block` weights along the summed axis may be other than zero."""

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
    def share(self) -> float:
        """The share of zeros."""
        return 1 - self.keep / self.block

    def refusal(self, parameter: Parameter) -> str | None:
        """Why a weight has no such blocks, or None."""
        axis = summed_axis(parameter)
        if axis is None:
            return f"{parameter.node.op_type} adds up no products along one axis of its weight"
        size = int(parameter.tensor.shape.numpy()[axis])
        if size % self.block:
            return f"it adds up {size} products per output, no multiple of {self.block}"
        return None

    def zeroed(self, array: Array, axis: int) -> Array:
        """A copy of `array` with all but the largest weights of each block zero."""
        moved = np.moveaxis(array, axis, -1)
        blocks = np.abs(moved.astype(np.float32)).reshape(*moved.shape[:-1], -1, self.block)
        ranks = np.argsort(np.argsort(blocks, axis=-1, kind="stable"), axis=-1)
        kept = (ranks >= self.block - self.keep).reshape(moved.shape)
        return np.where(np.moveaxis(kept, -1, axis), array, array.dtype.type(0))

    def follows(self, array: Array, axis: int) -> bool:
        """Whether an array has no block with more than `keep` numbers other than zero."""
        moved = np.moveaxis(array, axis, -1)
        blocks = moved.reshape(*moved.shape[:-1], -1, self.block)
        return bool((np.count_nonzero(blocks, axis=-1) <= self.keep).all())


def summed_axis(parameter: Parameter) -> int | None:
    """The axis of a weight along which blocks lie: input channels, or features."""
    rule = spec_of(parameter.node).summed_axes
    axes = rule(parameter.node, parameter.port) if rule is not None else ()
    return axes[0] if axes else None


def axis_order(arranged: Array, shape: tuple[int, ...], axis: int) -> NDArray[np.intp]:
    """Features in an order in which neighbours along `axis` of the weight are consecutive.

    Args:
        arranged: int[K], the flat position in the weight of each feature of one output.
        shape: the weight's.
        axis: along which blocks lie.
    """
    places = list(np.unravel_index(arranged, shape))
    along = places.pop(axis)
    order: NDArray[np.intp] = np.lexsort((along, *places)).astype(np.intp)
    return order
