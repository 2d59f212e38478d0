"""Data augmentation: mixed, shifted and mirrored inputs.

The teacher answers them as it answers real ones, so that unlike with labels nothing needs to
mean the same afterwards: it only has to look like an input. Mixing: Zhang et al. 2018 (mixup),
Beyer et al. 2022 (with a teacher that sees the same mixture).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.inputs import Feed

Array = NDArray[Any]

#: Images are shifted by up to this fraction of their height and width.
_MAX_SHIFT = 0.1
#: The smallest height and width of what is taken for an image.
_MIN_SIDE = 8


def can_augment(feed: Feed) -> bool:
    """Return True if every input is a tensor of real numbers; token ids cannot be mixed."""
    return all(array.dtype == np.float32 and array.ndim > 1 for array in feed.values())


def augment(feeds: Sequence[Feed], count: int, *, seed: int) -> Iterator[Feed]:
    """Yield `count` new feeds of one sample each; see the module."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for _ in range(count):
        order = order or rng.permutation(len(feeds)).tolist()
        feed, other = feeds[order.pop()], feeds[int(rng.integers(len(feeds)))]
        weight = np.float32(rng.choice([1.0, rng.uniform(0.5, 1)]))
        flip = bool(rng.integers(2))
        shift = rng.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2)
        yield {
            name: _moved(_mixed(array, other[name], weight), flip, shift)
            for name, array in feed.items()
        }


def _mixed(array: Array, other: Array, weight: np.float32) -> Array:
    if array.shape != other.shape:
        return array
    mixed: Array = weight * array + (1 - weight) * other
    return mixed


def _moved(array: Array, flip: bool, shift: Array) -> Array:
    """Mirror and shift `float32[n, c, h, w]`, with its edges repeated; others stay."""
    if array.ndim != 4 or min(array.shape[2:]) < _MIN_SIDE:
        return array
    array = array[..., ::-1] if flip else array
    for axis, part in zip((2, 3), shift, strict=True):
        size = array.shape[axis]
        places = np.arange(size) + round(float(part) * size)
        array = np.take(array, places.clip(0, size - 1), axis)
    return np.ascontiguousarray(array)
