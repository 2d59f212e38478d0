"""Figures of single samples: median, 95% quantile, and which sample is worst."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.fidelity import sqnr_db

Array64 = NDArray[np.float64]

#: Heavy tail: the worst 1% of the samples carry more of the loss than `0.15 + 2 k / n`, with k of
#: n samples. An exponential distribution stays below it; a log-normal one of sigma 2 does not.
_HEAVY_FRACTION, _HEAVY_PER_SAMPLE = 0.15, 2.0
#: A sample with less power than this fraction of the median sample's counts as that loud.
_SILENT = 1e-4
#: Values converted to float64 at a time.
_BLOCK = 1 << 18


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


class SampleSquares:
    """Sums of squares of one output per sample; two numbers per sample are kept."""

    def __init__(self) -> None:
        self._signal: list[Array64] = []
        self._noise: list[Array64] = []
        self._indices: list[NDArray[np.intp]] = []

    def add(
        self, reference: NDArray[Any], candidate: NDArray[Any], first: int, samples: int
    ) -> None:
        """Add a float output of one feed; one without an axis of samples counts as one sample.

        Args:
            reference: `[samples, ...]`; values that are not finite in both are left out.
            candidate: of the same shape.
            first: index of the feed's first sample.
            samples: number of samples in the feed.
        """
        if reference.size == 0:
            return
        rows = samples if reference.ndim and len(reference) == samples else 1
        one, two = reference.reshape(rows, -1), candidate.reshape(rows, -1)
        step = max(1, _BLOCK // one.shape[1])
        for start in range(0, rows, step):
            a = one[start : start + step].astype(np.float64)
            b = two[start : start + step].astype(np.float64)
            finite = np.isfinite(a) & np.isfinite(b)
            if not finite.all():
                a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
            self._signal.append(np.einsum("ij,ij->i", a, a))
            np.subtract(a, b, out=b)
            self._noise.append(np.einsum("ij,ij->i", b, b))
        self._indices.append(np.arange(first, first + rows, dtype=np.intp))

    def spread(self) -> SampleSpread | None:
        """SQNR of single samples in dB, each relative to its own power; None without values.

        A silent sample is measured against a ten-thousandth of the median sample's power.
        """
        if not self._signal:
            return None
        signal, noise = np.concatenate(self._signal), np.concatenate(self._noise)
        least = max(_SILENT * float(np.median(signal)), float(np.finfo(np.float64).tiny))
        losses = noise / np.maximum(signal, least)
        spread = spread_of(losses, np.concatenate(self._indices))
        return spread.converted(lambda ratio: sqnr_db(1.0, ratio))


def _worst_count(samples: int) -> int:
    return max(1, round(samples / 100))
