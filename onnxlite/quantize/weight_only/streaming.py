"""Code one tensor at a time, in chunks of bounded size, on several threads.

A memory-mapped weight is read through a separate handle, so that its pages are released
afterwards. NumPy releases the GIL, so threads compute in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.fidelity import SquaredError
from onnxlite.graph import tensor_array
from onnxlite.model import unmapped
from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Blocks, Coding, Levels, coding
from onnxlite.records import Reason

Array = NDArray[Any]
T = TypeVar("T")

#: Numbers in a chunk; its temporaries fit in the cache of a core.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TensorCoding:
    """Coding of a tensor and its rounding error."""

    coding: Coding
    error: SquaredError

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the tensor in dB; None without signal or noise."""
        error = self.error
        return error.sqnr_db if error.signal and error.noise else None

    @property
    def relative_noise(self) -> float:
        """Noise over signal; 0 without signal."""
        return self.error.noise / self.error.signal if self.error.signal else 0.0


def code_tensor(
    tensor: ir.TensorProtocol,
    blocks: Blocks,
    kind: WeightType,
    find: Callable[[Array], Levels],
    threads: int | None,
) -> TensorCoding | Reason:
    """Find the coding of a tensor with `find(view)`.

    Returns:
        The coding, or the reason why the tensor cannot be coded.
    """
    view = _view(tensor, blocks)

    def levels(rows: slice) -> Levels | None:
        chunk = _floats(view[rows])
        return find(chunk) if np.isfinite(chunk).all() else None

    found = _each(levels, _chunks(blocks), threads)
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return Reason("not-finite", f"its weight {tensor.name!r} holds NaN or infinite values")
    zeros = [zero for _, zero in parts if zero is not None]
    coded = coding(
        kind,
        np.concatenate([scale for scale, _ in parts]),
        np.concatenate(zeros) if zeros else None,
    )

    def error(rows: slice) -> SquaredError:
        chunk = _floats(view[rows])
        sums = SquaredError()
        sums.add(chunk, coded.decode(coded.encode(chunk, rows), rows))
        return sums

    total = SquaredError()
    for sums in _each(error, _chunks(blocks), threads):
        total.merge(sums)
    return TensorCoding(coded, total)


def encode_tensor(
    tensor: ir.TensorProtocol, blocks: Blocks, found: Coding, threads: int | None
) -> NDArray[np.uint8]:
    """Return the codes of a tensor in the shape of the view."""
    view = _view(tensor, blocks)
    codes = np.empty(blocks.view, np.uint8)

    def fill(rows: slice) -> None:
        codes[rows] = found.encode(_floats(view[rows]), rows)

    _each(fill, _chunks(blocks), threads)
    return codes


def is_mapped(tensor: ir.TensorProtocol) -> bool:
    """Return whether the data of a tensor are read or computed on access."""
    return isinstance(tensor, ir.ExternalTensor | ir.LazyTensor)


def weight_error(reference: ir.TensorProtocol, candidate: ir.TensorProtocol) -> SquaredError:
    """Return the squared error of one weight against another."""
    error = SquaredError()
    error.add(_floats(tensor_array(unmapped(reference))), _floats(tensor_array(candidate)))
    return error


def _view(tensor: ir.TensorProtocol, blocks: Blocks) -> Array:
    return tensor_array(unmapped(tensor)).reshape(blocks.view)


def _floats(chunk: Array) -> NDArray[np.float32]:
    return chunk.astype(np.float32)


def _chunks(blocks: Blocks) -> list[slice]:
    """Slice the first axis of the view; a single slice if it has one scale."""
    if 0 in blocks.reduced:
        return [slice(None)]
    rows = max(1, _CHUNK // prod(blocks.view[1:]))
    return [slice(start, start + rows) for start in range(0, blocks.view[0], rows)]


def _each(call: Callable[[slice], T], chunks: list[slice], threads: int | None) -> list[T]:
    if len(chunks) == 1:
        return [call(chunks[0])]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(call, chunks))
