"""The k-th smallest magnitude of any number of tensors, exactly, in fixed memory.

The bit pattern of a non-negative float32 orders like its value, so a radix selection
works: one pass counts the upper 16 bits of every magnitude, a second the lower 16
bits inside the bin that holds the k-th. No tensor is held longer than its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 22


def magnitudes(array: NDArray[Any]) -> NDArray[np.float32]:
    """Absolute values as flat `float32`."""
    return np.abs(array.reshape(-1).astype(np.float32, copy=False))


def kth_magnitude(tensors: Callable[[], Iterable[NDArray[Any]]], k: int) -> tuple[float, int]:
    """The k-th smallest magnitude (1-based) over all tensors.

    Args:
        tensors: gives a fresh pass over the arrays each time it is called.
        k: rank, from 1 to the total number of elements.

    Returns:
        The magnitude `t`, and how many of those equal to `t` are among the k smallest
        (equal magnitudes are common: rounded or shared weights).
    """
    upper = np.zeros(1 << 16, np.int64)
    for array in tensors():
        for bits in _chunks(array):
            upper += np.bincount(bits >> 16, minlength=1 << 16)
    below = np.cumsum(upper)
    high = int(np.searchsorted(below, k))
    rest = k - int(below[high] - upper[high])
    lower = np.zeros(1 << 16, np.int64)
    for array in tensors():
        for bits in _chunks(array):
            lower += np.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16)
    below = np.cumsum(lower)
    low = int(np.searchsorted(below, rest))
    ties = rest - int(below[low] - lower[low])
    return float(np.array(high << 16 | low, np.uint32).view(np.float32)), ties


def _chunks(array: NDArray[Any]) -> Iterable[NDArray[np.uint32]]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield magnitudes(flat[start : start + _CHUNK]).view(np.uint32)


def zeroed(array: NDArray[Any], threshold: float, ties: int) -> NDArray[Any]:
    """A copy with magnitudes below `threshold` zero, and the first `ties` equal to it."""
    result = array.copy()
    flat = result.reshape(-1)
    size = magnitudes(array)
    flat[size < threshold] = 0
    if ties:
        flat[np.flatnonzero(size == threshold)[:ties]] = 0
    return result
