"""Metrics of one model's outputs against another's, feed by feed.

Of every sample only sums are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.evaluate.per_sample import SampleRows, SampleSpread
from onnxlite.fidelity import OutputError, OutputLayout, common_part, output_layout

#: Values converted to float64 at a time.
_BLOCK = 1 << 18
#: Samples and bytes of the first outputs, from which the parts of an output are derived.
_LAYOUT_ROWS, _LAYOUT_BYTES = 64, 1 << 26


class PartFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of a part of an output: slices of like scale.

    Attributes:
        label: output and slices, for example `"output0[:, 4:22]"`.
        kind: of the values: `"values"`, `"scores"` in 0..1, `"zero"` or `"constant"`.
        sqnr_db: SQNR in dB; None without any error.
        cosine: cosine similarity per sample, averaged.
        undecided: reason why the samples say nothing about this part; empty if they do.
        loud: samples of far more power than the others, which were left out of `sqnr_db`.
        per_sample: SQNR of single samples in dB; None without any signal.
    """

    label: str
    kind: str
    sqnr_db: float | None = None
    cosine: float | None = None
    undecided: str = ""
    loud: tuple[int, ...] = ()
    per_sample: SampleSpread | None = None


class OutputFidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one output. Error figures are None for integers and text.

    Attributes:
        name: of the output in the reference model.
        dtype: its NumPy type there.
        values: number of values compared.
        equal: fraction of values that are exactly equal, 0 to 1 (NaN equals NaN).
        broken: values that are finite in the reference and NaN or infinite in the
            candidate, or the other way round; left out of every other figure.
        sqnr_db: 10 log10(sum(ref^2) / sum((ref - cand)^2)) of the worst part; None without any
            error, and with broken values.
        worst_part: label of that part, the name of the output if it has no others.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        peak: largest absolute value of the reference, to hold `max_abs` against.
        cosine: cosine similarity per sample (first axis), averaged; of the part where it is least.
        agreement: fraction of samples with the same largest entry, for outputs `[n, c >= 2]`.
        parts: slices of like scale, one entry where the whole output is.
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
    worst_part: str = ""
    parts: tuple[PartFidelity, ...] = ()

    @property
    def decibels(self) -> float:
        """SQNR in dB: infinite without any error, minus infinite with broken values."""
        if self.broken:
            return -math.inf
        return math.inf if self.sqnr_db is None else self.sqnr_db

    @property
    def per_sample(self) -> SampleSpread | None:
        """SQNR of single samples in dB, of the worst part."""
        found = (part.per_sample for part in self.parts if part.label == self.worst_part)
        return next(found, None)


class Meter:
    """Accumulates one output's figures over many feeds.

    Args:
        name: of the output.
        cut: judge parts of different scale each by itself. They are derived from the first
            feeds, which are kept until there are enough.
        varying: sizes depend on values; what is common is compared.
    """

    def __init__(self, name: str, *, cut: bool = True, varying: bool = False) -> None:
        self.name, self._varying = name, varying
        self._first: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._error = None if cut else OutputError(name, OutputLayout())
        self._dtype = "?"
        self._values = self._equal = self._broken = 0
        self._abs_sum = self._abs_max = self._peak = 0.0
        self._ranked = self._agreed = 0
        self._numeric = False
        self._sample_rows = SampleRows()

    def update(
        self, reference: NDArray[Any], candidate: NDArray[Any], samples: int | None = None
    ) -> None:
        """Add one feed's output of both models.

        Args:
            reference: its output.
            candidate: the same, of the same shape.
            samples: in the feed; None if there is one for each row.

        Raises:
            VerificationError: the shapes differ, or one holds numbers and one does not.
        """
        kinds = {_kind(reference), _kind(candidate)}
        reference, candidate = common_part(self.name, reference, candidate, varying=self._varying)
        if len(kinds) > 1:
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
        rows = len(reference) if reference.ndim > 1 else 1
        self._sample_rows.add(rows, rows if samples is None else samples)
        for ref, cand in _row_blocks(reference, candidate):
            self._add(ref, cand)
        self._add_to_parts(reference, candidate)
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
        self._abs_sum += float(error.sum())
        self._abs_max = max(self._abs_max, float(error.max(initial=0.0)))
        self._peak = max(self._peak, float(np.abs(ref).max(initial=0.0)))

    def _add_to_parts(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        finite = np.isfinite(reference) & np.isfinite(candidate)
        if not finite.all():
            zero = reference.dtype.type(0)
            reference = np.where(finite, reference, zero)
            candidate = np.where(finite, candidate, zero)
        if self._error is not None:
            self._error.add(reference, candidate)
            return
        self._first.append((reference, candidate))
        rows = sum(len(np.atleast_1d(one)) for one, _ in self._first)
        size = sum(one.nbytes for one, _ in self._first)
        if rows >= _LAYOUT_ROWS or size >= _LAYOUT_BYTES:
            self._cut()

    def _cut(self) -> OutputError:
        """Derive the parts from the first feeds, if that has not been done."""
        if self._error is None:
            # The narrow floats of ml_dtypes are no floats to NumPy.
            known = [one.astype(np.float32) if _is_narrow(one) else one for one, _ in self._first]
            self._error = OutputError(self.name, output_layout(known))
            for one, other in self._first:
                self._error.add(one, other)
            self._first.clear()
        return self._error

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
        parts = _parts(self._cut(), self._sample_rows)
        decided = [part for part in parts if not part.undecided]
        return msgspec.structs.replace(
            figures,
            sqnr_db=None if self._broken else _finite(self._cut().sqnr_db),
            worst_part=self._cut().worst_part.label,
            max_abs=self._abs_max,
            mean_abs=self._abs_sum / max(self._values - self._broken, 1),
            peak=self._peak,
            cosine=min(
                (part.cosine for part in decided or parts if part.cosine is not None), default=None
            ),
            agreement=self._agreed / self._ranked if self._ranked else None,
            parts=parts,
        )


def _parts(error: OutputError, rows: SampleRows) -> tuple[PartFidelity, ...]:
    cosines = [error.cosines(index) for index in range(len(error.layout.parts))]
    return tuple(
        PartFidelity(
            label=part.label,
            kind=part.kind,
            sqnr_db=_finite(part.sqnr_db),
            cosine=float(cosine.mean()) if len(cosine) else None,
            undecided=part.undecided,
            loud=part.loud,
            per_sample=rows.sqnr_spread(*error.sums[:, index, :2].T),
        )
        for index, (part, cosine) in enumerate(zip(error.parts, cosines, strict=True))
    )


def _finite(decibels: float) -> float | None:
    return None if decibels == math.inf else decibels


def _is_narrow(array: NDArray[Any]) -> bool:
    """Tell the floats of ml_dtypes, which are void to NumPy."""
    return array.dtype.kind == "V"


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
