"""Figures of single samples: median, 95% quantile, and which sample is worst."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.fidelity import sqnr_db

Array64 = NDArray[np.float64]

#: Heavy tail: the worst 1% of the samples carry more of the loss than `0.15 + 3 k / n`, with k of
#: n samples. An exponential distribution stays below it; a log-normal one of sigma 2 does not.
_HEAVY_FRACTION, _HEAVY_PER_SAMPLE = 0.15, 3.0
#: A sample with less power than this fraction of the median sample's counts as that loud.
_SILENT = 1e-2
#: Power of a sample that is zero.
_TINY = 1e-150
#: Noise over signal of a sample without noise.
_LEAST_NOISE = 1e-30


class SampleSpread(msgspec.Struct, frozen=True, kw_only=True):
    """Spread of a figure over samples, in the unit of the figure.

    Attributes:
        samples: number of samples.
        median: half of the samples are worse.
        q95: 5% of the samples are worse.
        worst: the figure of the worst sample.
        worst_sample: its index, in the order in which samples were given.
        worst_fraction: fraction of the total loss in the worst `worst_count` samples.
    """

    samples: int
    median: float
    q95: float
    worst: float
    worst_sample: int
    worst_fraction: float

    @property
    def worst_count(self) -> int:
        """Number of samples in the worst 1%, at least one."""
        return _worst_count(self.samples)

    @property
    def is_heavy(self) -> bool:
        """True if so few samples carry so much of the loss that others may carry more."""
        usual = _HEAVY_FRACTION + _HEAVY_PER_SAMPLE * self.worst_count / self.samples
        return self.worst_fraction > usual

    def converted(self, function: Callable[[float], float]) -> SampleSpread:
        """Return the spread in another unit; the function is monotonic."""
        return msgspec.structs.replace(
            self,
            median=function(self.median),
            q95=function(self.q95),
            worst=function(self.worst),
        )


def spread_of(losses: Array64, indices: NDArray[np.intp] | None = None) -> SampleSpread:
    """Summarize losses per sample.

    Args:
        losses: float64[samples], at least one; larger is worse.
        indices: of the samples, if they are not 0, 1, 2 and so on.
    """
    worst = int(losses.argmax())
    sizes = np.sort(np.abs(losses))
    total = float(sizes.sum())
    carried = float(sizes[-_worst_count(len(losses)) :].sum())
    median, q95 = np.quantile(losses, [0.5, 0.95], method="higher")
    return SampleSpread(
        samples=len(losses),
        median=float(median),
        q95=float(q95),
        worst=float(losses[worst]),
        worst_sample=worst if indices is None else int(indices[worst]),
        worst_fraction=carried / total if total > 0 else 0.0,
    )


def sample_sqnr_db(noise: float) -> float:
    """SQNR in dB of a sample's noise over signal; at most 300, which JSON can hold."""
    return sqnr_db(1.0, max(noise, _LEAST_NOISE))


class SampleRows:
    """Samples that the rows of an output belong to, feed by feed."""

    def __init__(self) -> None:
        self._rows = self._samples = 0
        self._starts: list[int] = []
        self._indices: list[int] = []

    def add(self, rows: int, samples: int) -> None:
        """Add a feed; its rows are its samples if there are as many, else it is one sample."""
        count = rows if rows == samples else min(rows, 1)
        self._starts += range(self._rows, self._rows + count)
        self._indices += range(self._samples, self._samples + count)
        self._rows += rows
        self._samples += samples

    def sqnr_spread(self, signal: Array64, noise: Array64) -> SampleSpread | None:
        """Spread of the SQNR in dB of single samples, each relative to its own power.

        A silent sample is measured against a hundredth of the median sample's power.

        Args:
            signal: sum of squares of each row's reference, float64[rows].
            noise: the same of its difference.

        Returns:
            None without rows, and where all of them are zero.
        """
        if not signal.any():
            return None
        powers = np.add.reduceat(signal, self._starts)
        least = max(_SILENT * float(np.median(powers)), _TINY)
        losses = np.add.reduceat(noise, self._starts) / np.maximum(powers, least)
        spread = spread_of(losses, np.array(self._indices))
        return spread.converted(sample_sqnr_db)


def _worst_count(samples: int) -> int:
    return max(1, round(samples / 100))
