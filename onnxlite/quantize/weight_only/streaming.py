"""Code one tensor at a time, in chunks of bounded size, on several cores.

A weight that is mapped from disk is read through a handle of its own, so that nothing of it
stays in memory; NumPy lets other threads run while it computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import tensor_array
from onnxlite.model import unmapped
from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Blocks, Coding, Levels, coding

Array = NDArray[Any]
T = TypeVar("T")

#: Numbers in a piece: its copies stay in a core's cache and out of the memory budget.
_PIECE = 1 << 20


class Coded(NamedTuple):
    """The coding of a tensor, and the sums of squares of its numbers and of its errors."""

    coding: Coding
    signal: float
    noise: float

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise in dB; None without signal or noise."""
        if not self.signal or not self.noise:
            return None
        return float(10 * np.log10(self.signal / self.noise))


def code_tensor(
    tensor: ir.TensorProtocol,
    blocks: Blocks,
    kind: WeightType,
    find: Callable[[Array], Levels],
    threads: int | None,
) -> Coded | str:
    """Find the coding of a tensor with `find(view)`, or say why it has none."""
    view = _view(tensor, blocks)

    def levels(rows: slice) -> Levels | None:
        piece = _floats(view[rows])
        return find(piece) if np.isfinite(piece).all() else None

    found = _each(levels, _pieces(blocks), threads)
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return f"its weight {tensor.name!r} holds NaN or infinite values"
    zeros = [zero for _, zero in parts if zero is not None]
    coded = coding(
        kind,
        np.concatenate([scale for scale, _ in parts]),
        np.concatenate(zeros) if zeros else None,
    )

    def error(rows: slice) -> tuple[float, float]:
        piece = _floats(view[rows])
        wrong = piece - coded.decode(coded.encode(piece, rows), rows)
        return _energy(piece), _energy(wrong)

    sums = _each(error, _pieces(blocks), threads)
    return Coded(coded, sum(s for s, _ in sums), sum(n for _, n in sums))


def encode_tensor(
    tensor: ir.TensorProtocol, blocks: Blocks, found: Coding, threads: int | None
) -> NDArray[np.uint8]:
    """The codes of a tensor, shaped like the view."""
    view = _view(tensor, blocks)
    codes = np.empty(blocks.view, np.uint8)

    def fill(rows: slice) -> None:
        codes[rows] = found.encode(_floats(view[rows]), rows)

    _each(fill, _pieces(blocks), threads)
    return codes


def is_mapped(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor's data are read, or computed, when they are needed."""
    return isinstance(tensor, ir.ExternalTensor | ir.LazyTensor)


def weight_noise(old: ir.TensorProtocol, new: ir.TensorProtocol) -> float:
    """Sum of squares of the difference of two weights."""
    return _energy(_floats(tensor_array(unmapped(old))) - _floats(tensor_array(new)))


def _view(tensor: ir.TensorProtocol, blocks: Blocks) -> Array:
    return tensor_array(unmapped(tensor)).reshape(blocks.view)


def _floats(piece: Array) -> NDArray[np.float32]:
    return piece.astype(np.float32)


def _energy(array: Array) -> float:
    return float(np.square(array, dtype=np.float64).sum()) if array.size else 0.0


def _pieces(blocks: Blocks) -> list[slice]:
    """Slices along the first axis of the view; one where the scale is the same along it."""
    if 0 in blocks.reduced:
        return [slice(None)]
    rows = max(1, _PIECE // prod(blocks.view[1:]))
    return [slice(start, start + rows) for start in range(0, blocks.view[0], rows)]


def _each(call: Callable[[slice], T], pieces: list[slice], threads: int | None) -> list[T]:
    if len(pieces) == 1:
        return [call(pieces[0])]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(call, pieces))
