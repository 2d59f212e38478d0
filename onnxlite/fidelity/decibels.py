"""Signal to quantization noise ratio of arrays, from sums of squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TINY = float(np.finfo(np.float64).tiny)


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantization noise ratio in dB; infinite without noise.

    Args:
        signal: sum of squares of the reference.
        noise: sum of squares of the difference; NaN or infinite gives minus infinity.
    """
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(max(signal, _TINY) / noise) if noise > 0 else math.inf


def noise_ratio(decibels: float) -> float:
    """Noise over signal of an SQNR in dB, the inverse of `sqnr_db(1, noise)`."""
    return math.inf if decibels == -math.inf else 10 ** (-decibels / 10)


@dataclass
class SquaredError:
    """Sums of squares over pairs of arrays; memory does not grow with their number.

    Attributes:
        signal: sum of squares of the reference's finite values.
        noise: sum of squares of the difference there.
        values: number of values compared.
        broken: values that are finite in the reference and NaN or infinite in the candidate.
    """

    signal: float = 0.0
    noise: float = 0.0
    values: int = 0
    broken: int = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add two float arrays of one shape; the sums are taken in float64."""
        finite = np.isfinite(reference)
        usable = finite & np.isfinite(candidate)
        self.values += int(np.count_nonzero(finite))
        self.broken += int(np.count_nonzero(finite) - np.count_nonzero(usable))
        if usable.all():
            exact = np.asarray(reference, np.float64)
            error = exact - np.asarray(candidate, np.float64)
        else:
            exact = reference[usable].astype(np.float64)
            error = exact - candidate[usable].astype(np.float64)
        self.signal += float(np.square(exact).sum())
        self.noise += float(np.square(error).sum())

    def merge(self, other: SquaredError) -> None:
        """Add the sums over other pairs of arrays."""
        self.signal += other.signal
        self.noise += other.noise
        self.values += other.values
        self.broken += other.broken

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB; minus infinite with broken values."""
        return -math.inf if self.broken else sqnr_db(self.signal, self.noise)


def array_sqnr_db(*pairs: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """SQNR in dB of arrays that belong together, such as a layer's weights.

    Args:
        pairs: reference and candidate, float arrays of one shape.
    """
    total = SquaredError()
    for reference, candidate in pairs:
        total.add(reference, candidate)
    return total.sqnr_db


def gains_db(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gains in dB by less noise for the same signals; 0 where neither has any.

    Args:
        before: sums of squares of noise, of any shape.
        after: the same of another candidate.
    """
    gains: NDArray[np.float64] = 10 * np.log10(np.maximum(before, _TINY) / np.maximum(after, _TINY))
    return gains
