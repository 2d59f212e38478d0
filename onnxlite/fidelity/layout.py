"""Layout of an output: slices of very different scale are parts, each judged by itself.

A detector's output holds boxes in pixels beside scores in 0..1. In one figure over the whole array
the boxes hide every error of the scores. Here the scale of the slices along every axis is compared
on the reference's outputs, and slices that lie an order of magnitude apart become separate parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: "scores": all values lie in 0..1. "zero", "constant": the samples do not show what it does.
PartKind: TypeAlias = Literal["values", "scores", "zero", "constant"]
Array64: TypeAlias = NDArray[np.float64]

#: Parts lie apart by this factor of their root mean squares.
_GAP = 10.0
#: A slice below this fraction of the largest is zero: float32 carries no more digits.
_ZERO = 1e-6
#: Variance over power of values that are the same everywhere.
_CONSTANT = 1e-10
#: The root mean square of fewer values is left to chance.
_MIN_VALUES = 16
#: Rounding above the range of scores.
_SCORE_SLACK = 1e-3
#: Runs of slices that a label shows.
_RUNS_SHOWN = 3


@dataclass(frozen=True)
class OutputPart:
    """Slices of an output that belong together.

    Attributes:
        label: index of the slices, for example `"[:, 4:22]"`; empty for the whole output.
        kind: of the values.
        slices: index along the layout's axis.
    """

    label: str = ""
    kind: PartKind = "values"
    slices: slice | NDArray[np.intp] = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class OutputLayout:
    """Parts of an output along one axis.

    Attributes:
        parts: at least one.
        axis: along which they are slices; None where the whole output is one part.
    """

    parts: tuple[OutputPart, ...] = (OutputPart(),)
    axis: int | None = None

    def fits(self, array: NDArray[Any]) -> bool:
        """Tell whether an array can be cut into these parts."""
        if self.axis is None:
            return True
        stops = [
            part.slices.stop if isinstance(part.slices, slice) else part.slices.max() + 1
            for part in self.parts
        ]
        return array.ndim > self.axis and array.shape[self.axis] == max(stops)

    def of(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """Cut an array into its parts, each `[rows, values]`.

        A row is a sample; an array without further axes is one row.
        """
        rows = array.shape[0] if array.ndim > 1 else 1
        if self.axis is None:
            return [_as_rows(array, rows)]
        moved = np.moveaxis(array, self.axis, -1)
        return [_as_rows(moved[..., part.slices], rows) for part in self.parts]


def _as_rows(array: NDArray[Any], rows: int) -> NDArray[Any]:
    return array.reshape(rows, array.size // rows if rows else 0)


def output_layout(arrays: Sequence[NDArray[Any]]) -> OutputLayout:
    """Derive the parts of an output from what a reference returned.

    Args:
        arrays: the output's float arrays, one for each feed, samples along the first axis.
    """
    arrays = [_finite(array) for array in arrays if array.size]
    if not arrays:
        return OutputLayout()
    first = arrays[0]
    if any(array.ndim != first.ndim for array in arrays):
        return OutputLayout()
    if _is_constant(arrays):
        return OutputLayout((OutputPart(kind="constant" if first.any() else "zero"),))
    best: tuple[float, int, _SliceScales] | None = None
    for axis in range(1, first.ndim):
        size = first.shape[axis]
        values = sum(array.size for array in arrays) // max(size, 1)
        if size < 2 or values < _MIN_VALUES or any(a.shape[axis] != size for a in arrays):
            continue
        scales = _SliceScales(arrays, axis)
        if scales.gap > 1.0 and (best is None or scales.gap > best[0]):
            best = scales.gap, axis, scales
    if best is None:
        low = min(float(array.min()) for array in arrays)
        high = max(float(array.max()) for array in arrays)
        return OutputLayout((OutputPart(kind=_kind(low, high)),))
    _, axis, scales = best
    parts = tuple(
        OutputPart(_label(slices, axis), kind, _compact(slices)) for kind, slices in scales.groups()
    )
    return OutputLayout(parts, axis)


class _SliceScales:
    """Scale of every slice along one axis, over all feeds.

    Attributes:
        gap: largest factor between neighbouring scales in order of size, 1 without any.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]], axis: int) -> None:
        self._arrays, self._axis = arrays, axis
        self._count = sum(array.size for array in arrays) // arrays[0].shape[axis]
        power = np.zeros(arrays[0].shape[axis])
        for array in arrays:
            power += np.square(array, dtype=np.float64).sum(axis=_others(array, axis))
        self._power = power
        self._scale = np.sqrt(power / self._count)
        self._low, self._high, self._constant = self._extremes()
        scores = (self._low >= 0) & (self._high <= 1 + _SCORE_SLACK)
        # Scores of classes that are not seen are small, and no zeros beside boxes in pixels.
        smallest = np.where(scores, 0.0, _ZERO * self._scale.max(initial=0.0))
        self._silent = self._scale <= smallest
        ordered = np.sort(self._scale[~self._silent])[::-1]
        gap = float((ordered[:-1] / ordered[1:]).max(initial=_GAP if self._silent.any() else 1.0))
        self.gap = gap if gap >= _GAP else 1.0

    def groups(self) -> list[tuple[PartKind, NDArray[np.intp]]]:
        """Group the slices, those of the largest scale first."""
        low, high, constant = self._low, self._high, self._constant
        order = np.argsort(-self._scale, kind="stable")
        order = order[~self._silent[order] & ~constant[order]]
        found: list[tuple[PartKind, NDArray[np.intp]]] = []
        breaks = [0, *(np.flatnonzero(self._breaks(order)) + 1), len(order)]
        for start, stop in pairwise(breaks):
            slices = np.sort(order[start:stop])
            if not len(slices):
                continue
            kind = _kind(low[slices].min(), high[slices].max())
            # Classes that are rarely seen are scores like the others, however small theirs are.
            if kind == "scores" and found and found[-1][0] == "scores" and len(found) > 1:
                slices = np.sort(np.concatenate([found.pop()[1], slices]))
            found.append((kind, slices))
        for kind, mask in (("constant", constant & ~self._silent), ("zero", self._silent)):
            if mask.any():
                found.append((kind, np.flatnonzero(mask)))
        return found

    def _breaks(self, order: NDArray[np.intp]) -> NDArray[np.bool_]:
        scale = self._scale[order]
        breaks: NDArray[np.bool_] = scale[:-1] >= _GAP * scale[1:]
        return breaks

    def _extremes(self) -> tuple[Array64, Array64, NDArray[np.bool_]]:
        """Least and largest value of every slice, and whether it is constant."""
        low, high = np.full(len(self._scale), np.inf), np.full(len(self._scale), -np.inf)
        total = np.zeros(len(self._scale))
        for array in self._arrays:
            others = _others(array, self._axis)
            low = np.minimum(low, array.min(axis=others, initial=np.inf))
            high = np.maximum(high, array.max(axis=others, initial=-np.inf))
            total += array.sum(axis=others, dtype=np.float64)
        variance = self._power - total**2 / self._count
        return low, high, variance <= _CONSTANT * self._power


def _finite(array: NDArray[Any]) -> NDArray[Any]:
    """The array with zeros for what is NaN or infinite, which is compared nowhere."""
    if np.isfinite(array).all():
        return array
    return np.where(np.isfinite(array), array, array.dtype.type(0))


def _is_constant(arrays: Sequence[NDArray[Any]]) -> bool:
    """Tell whether all samples have the same output."""
    first = arrays[0]
    if not first.ndim or sum(len(array) for array in arrays) < 2:
        return False
    if any(array.shape[1:] != first.shape[1:] for array in arrays):
        return False
    row = first[:1]
    allowed = np.sqrt(_CONSTANT) * np.abs(row).max()
    # In float64, because numbers near the limit of float32 have no difference there.
    differences = (np.abs(np.subtract(array, row, dtype=np.float64)) for array in arrays)
    return all(bool((difference <= allowed).all()) for difference in differences)


def _kind(low: float, high: float) -> PartKind:
    if low == high == 0:
        return "zero"
    is_score = low >= 0 and high <= 1 + _SCORE_SLACK
    return "scores" if is_score else "values"


def _others(array: NDArray[Any], axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(array.ndim) if other != axis)


def _compact(slices: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """A slice object, which copies nothing, where the slices are neighbours."""
    start, stop = int(slices[0]), int(slices[-1]) + 1
    return slice(start, stop) if stop - start == len(slices) else slices


def _label(slices: NDArray[np.intp], axis: int) -> str:
    """Write an index as Python would, for example `[:, 4:22]`."""
    ends = np.flatnonzero(np.diff(slices) > 1)
    starts = [0, *(ends + 1)]
    stops = [*(ends + 1), len(slices)]
    runs = [
        str(slices[a]) if b - a == 1 else f"{slices[a]}:{slices[b - 1] + 1}"
        for a, b in zip(starts, stops, strict=True)
    ]
    shown = " and ".join(runs[:_RUNS_SHOWN]) + (" and others" if runs[_RUNS_SHOWN:] else "")
    return f"[{':, ' * axis}{shown}]"
