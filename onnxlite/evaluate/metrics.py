"""Metrics of one model's outputs against another's, feed by feed.

Memory does not grow with the number of feeds: only sums are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.fidelity import SquaredError

#: Values converted to float64 at a time.
_BLOCK = 1 << 18


class OutputFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one output. Error figures are None for integers and text.

    Attributes:
        name: of the output in the reference model.
        dtype: its NumPy type there.
        values: number of values compared.
        equal: fraction of values that are exactly equal, 0 to 1 (NaN equals NaN).
        broken: values that are finite in the reference and NaN or infinite in the
            candidate, or the other way round; left out of every other figure.
        sqnr_db: 10 log10(sum(ref^2) / sum((ref - cand)^2)); None without any error, and
            with broken values.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        peak: largest absolute value of the reference, to hold `max_abs` against.
        cosine: cosine similarity per sample (first axis), averaged.
        agreement: fraction of samples with the same largest entry, for outputs `[n, c >= 2]`.
    """

    name: str
    dtype: str
    values: int
    equal: float
    broken: int = 0
    sqnr_db: float | None = None
    max_abs: float | None = None
    mean_abs: float | None = None
    peak: float | None = None
    cosine: float | None = None
    agreement: float | None = None

    @property
    def decibels(self) -> float:
        """SQNR in dB: infinite without any error, minus infinite with broken values."""
        if self.broken:
            return -math.inf
        return math.inf if self.sqnr_db is None else self.sqnr_db


class Meter:
    """Accumulates one output's figures over many feeds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._dtype = "?"
        self._values = self._equal = self._broken = 0
        self._squares = SquaredError()
        self._abs_sum = self._abs_max = self._peak = 0.0
        self._cosine_sum = 0.0
        self._cosines = self._ranked = self._agreed = 0
        self._numeric = False

    def update(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one feed's output of both models.

        Raises:
            VerificationError: the shapes differ, or one holds numbers and one does not.
        """
        kinds = {_kind(reference), _kind(candidate)}
        if reference.shape != candidate.shape or len(kinds) > 1:
            raise VerificationError(
                f"output {self.name!r} is {candidate.dtype}{list(candidate.shape)} in the "
                f"candidate and {reference.dtype}{list(reference.shape)} in the reference: "
                "these models do not compute the same thing"
            )
        self._dtype = reference.dtype.name
        self._values += reference.size
        if kinds != {"float"}:
            self._equal += int(np.count_nonzero(reference == candidate))
            return
        self._numeric = True
        for ref, cand in _row_blocks(reference, candidate):
            self._add(ref, cand)
        if reference.ndim == 2 and reference.shape[1] > 1:
            self._ranked += len(reference)
            same = reference.argmax(axis=1) == candidate.argmax(axis=1)
            self._agreed += int(np.count_nonzero(same))

    def _add(self, ref: NDArray[np.float64], cand: NDArray[np.float64]) -> None:
        """Add a block of rows; a row is one sample."""
        same = (ref == cand) | (np.isnan(ref) & np.isnan(cand))
        self._equal += int(np.count_nonzero(same))
        finite = np.isfinite(ref) & np.isfinite(cand)
        self._broken += int(np.count_nonzero(~finite & ~same))
        ref, cand = np.where(finite, ref, 0.0), np.where(finite, cand, 0.0)
        error = np.abs(ref - cand)
        self._squares.add(ref, cand)
        self._abs_sum += float(error.sum())
        self._abs_max = max(self._abs_max, float(error.max(initial=0.0)))
        self._peak = max(self._peak, float(np.abs(ref).max(initial=0.0)))
        norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(cand, axis=1)
        dots = np.einsum("ij,ij->i", ref, cand)
        # Two zero vectors point the same way; a zero and a non-zero one do not.
        alike = np.where(error.any(axis=1), 0.0, 1.0)
        cosines = np.divide(dots, norms, out=alike, where=norms > 0)
        self._cosine_sum += float(cosines.sum())
        self._cosines += len(cosines)

    def result(self) -> OutputFidelity:
        """The figures so far."""
        figures = OutputFidelity(
            name=self.name,
            dtype=self._dtype,
            values=self._values,
            equal=self._equal / self._values if self._values else 1.0,
            broken=self._broken,
        )
        if not self._numeric:
            return figures
        return msgspec.structs.replace(
            figures,
            sqnr_db=self._squares.sqnr_db if self._squares.noise and not self._broken else None,
            max_abs=self._abs_max,
            mean_abs=self._abs_sum / max(self._values - self._broken, 1),
            peak=self._peak,
            cosine=self._cosine_sum / self._cosines if self._cosines else None,
            agreement=self._agreed / self._ranked if self._ranked else None,
        )


def predicted_classes(outputs: NDArray[Any]) -> NDArray[Any]:
    """Class of each sample: argmax of `outputs[n, classes]`, or `outputs[n]`."""
    return outputs if outputs.ndim == 1 else outputs.argmax(axis=1)


def _kind(array: NDArray[Any]) -> str:
    """Kind of an array; the narrow floats of ml_dtypes are void to NumPy."""
    if array.dtype.kind in "iub":
        return "integer"
    return "float" if array.dtype.kind in "fV" else "text"


def _row_blocks(
    reference: NDArray[Any], candidate: NDArray[Any]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Blocks `float64[rows, values]` of both; what has no sample axis is one row."""
    rows = reference.shape[0] if reference.ndim > 1 else 1
    if reference.size == 0:
        return
    ref, cand = reference.reshape(rows, -1), candidate.reshape(rows, -1)
    step = max(1, _BLOCK // ref.shape[1])
    for start in range(0, rows, step):
        block = slice(start, start + step)
        yield ref[block].astype(np.float64), cand[block].astype(np.float64)
