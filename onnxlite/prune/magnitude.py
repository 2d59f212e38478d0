"""Magnitude pruning: the smallest weights become zero (Han et al. 2015).

Tensor by tensor, so that memory is bounded by the largest tensor. The threshold is exact: the
bit pattern of a non-negative float32 orders like its value, so a radix selection finds the
k-th smallest magnitude of any number of tensors. One pass counts the upper 16 bits of every
magnitude, a second the lower 16 bits inside of the bin that holds the k-th.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import UnsupportedError
from onnxlite.model import unmapped
from onnxlite.ops import Parameter
from onnxlite.prune.nm_pattern import summed_axis
from onnxlite.prune.options import PrunedWeight
from onnxlite.prune.sparsity_task import SparsityTask, weight_row

_CHUNK = 1 << 22


def magnitudes(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return absolute values as flat `float32`."""
    return np.abs(array.reshape(-1).astype(np.float32, copy=False))


def kth_magnitude(tensors: Callable[[], Iterable[NDArray[Any]]], k: int) -> tuple[float, int]:
    """Find the k-th smallest magnitude (1-based) over all tensors.

    Args:
        tensors: function that returns a new iteration over the arrays at each call.
        k: rank, from 1 to the total number of elements.

    Returns:
        The magnitude `t`, and the number of elements equal to `t` among the k smallest (equal
        magnitudes are common in rounded weights).
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
    """Copy with zeros for magnitudes below `threshold` and the first `ties` equal to it."""
    result = array.copy()
    flat = result.reshape(-1)
    size = magnitudes(array)
    flat[size < threshold] = 0
    if ties:
        flat[np.flatnonzero(size == threshold)[:ties]] = 0
    return result


Array = NDArray[Any]


def zero_smallest(task: SparsityTask) -> list[PrunedWeight]:
    """Rewrite in place: set the smallest weights to zero; mapped weights lazily.

    Returns:
        A row for every weight.

    Raises:
        UnsupportedError: a weight holds NaN or infinite values.
    """
    rows: list[PrunedWeight] = []
    layers, progress = task.layers, task.context.progress
    for index, (parameter, rewrite) in enumerate(zip(layers, _rewrites(task), strict=True)):
        progress(task.options.name(), index, len(layers))
        rows.append(_rewritten(parameter, rewrite))
    progress(task.options.name(), len(layers), len(layers))
    return rows


def _rewrites(task: SparsityTask) -> Iterator[Callable[[NDArray[Any]], NDArray[Any]]]:
    """Yield a function for every weight that zeros its smallest elements."""
    if task.pattern is not None:
        for parameter in task.layers:
            axis = summed_axis(parameter)
            assert axis is not None
            yield partial(task.pattern.zeroed, axis=axis)
        return
    sparsity, tensors = task.options.sparsity, [p.tensor for p in task.layers]
    if sparsity is not None and task.scope == "global" and tensors:
        limits = _global_limits(tensors, sparsity)
    else:
        limits = (_layer_limit(tensor, sparsity, task.options.threshold) for tensor in tensors)
    for limit, ties in limits:
        yield partial(zeroed, threshold=limit, ties=ties)


def _layer_limit(
    tensor: ir.TensorProtocol, sparsity: float | None, threshold: float | None
) -> tuple[float, int]:
    """Magnitude below which elements of a tensor become zero, and number of ties."""
    if threshold is not None:
        return threshold, 0
    assert sparsity is not None
    count = round(sparsity * tensor.size)
    if not count:
        return 0.0, 0
    return kth_magnitude(lambda: [_finite(tensor)], count)


def _global_limits(
    tensors: Sequence[ir.TensorProtocol], sparsity: float
) -> Iterator[tuple[float, int]]:
    count = round(sparsity * sum(tensor.size for tensor in tensors))
    if not count:
        yield from ((0.0, 0) for _ in tensors)
        return
    limit, ties = kth_magnitude(lambda: (_finite(tensor) for tensor in tensors), count)
    for tensor in tensors:
        equal = int((magnitudes(unmapped(tensor).numpy()) == limit).sum())
        yield limit, min(ties, equal)
        ties -= min(ties, equal)


def _finite(tensor: ir.TensorProtocol) -> NDArray[Any]:
    array = unmapped(tensor).numpy()
    if not np.isfinite(array).all():
        raise UnsupportedError(
            f"weight {tensor.name!r} {list(array.shape)} holds NaN or infinite values: "
            "the model is damaged, export it again"
        )
    return array


def _rewritten(
    parameter: Parameter, rewrite: Callable[[NDArray[Any]], NDArray[Any]]
) -> PrunedWeight:
    """Rewrite in place: replace a weight if the new one has more zeros."""
    old, value = parameter.tensor, parameter.value
    before = old.size - int(np.count_nonzero(unmapped(old).numpy()))

    def build() -> ir.TensorProtocol:
        return ir.Tensor(rewrite(unmapped(old).numpy()), dtype=old.dtype, name=value.name)

    new = build()
    zeros = old.size - int(np.count_nonzero(new.numpy()))
    if zeros != before:
        # A weight mapped from disk is computed again on each access, so that a model larger
        # than memory can be pruned.
        lazy = isinstance(old, ir.ExternalTensor | ir.LazyTensor)
        value.const_value = (
            ir.LazyTensor(build, old.dtype, old.shape, name=value.name)  # type: ignore[arg-type]
            if lazy
            else new
        )
    return weight_row(parameter, before, zeros)
