"""Estimates from a sample of inputs, with confidence intervals.

All intervals hold with a given confidence, two-sided.
"""

from __future__ import annotations

import math
import statistics

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.fidelity import sqnr_db

Array64 = NDArray[np.float64]

_RESAMPLES = 1000


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its interval; both ends are None where the samples give no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def proportion(successes: int, count: int, *, confidence: float) -> Estimate:
    """Estimate a proportion with its score interval (Wilson 1927), valid near 0 and 1 as well."""
    z = _normal_quantile(confidence)
    p = successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Estimate(p, max(centre - half, 0.0), min(centre + half, 1.0))


def paired_drop(reference: Array64, candidate: Array64, *, confidence: float) -> Estimate:
    """Estimate the fraction of samples that the candidate gets wrong in addition.

    The interval is that of Agresti & Min (2005): Wald's for the difference of paired
    proportions, with half an observation added to each of the four cells.

    Args:
        reference: 1 where the reference is right, else 0.
        candidate: the same of the candidate.
        confidence: of the interval.
    """
    count = len(reference)
    lost = float(np.sum((reference > 0) & (candidate == 0)))
    won = float(np.sum((reference == 0) & (candidate > 0)))
    b, c, n = lost + 0.5, won + 0.5, count + 2.0
    centre = (b - c) / n
    half = _normal_quantile(confidence) * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    return Estimate((lost - won) / count, centre - half, centre + half)


def mean(values: Array64, *, confidence: float, seed: int = 0) -> Estimate:
    """Estimate a mean with its bootstrap interval (Efron 1979, percentile method)."""
    if len(values) < 2:
        return Estimate(float(values.mean()))
    samples = np.stack([values[rows].mean() for rows in _resampled(len(values), seed)])
    return Estimate(float(values.mean()), *_ends(samples, confidence))


def noise_ratio(signal: Array64, noise: Array64, *, confidence: float, seed: int = 0) -> Estimate:
    """Estimate `sum(noise) / sum(signal)` over all samples, with its bootstrap interval."""
    total = max(float(signal.sum()), np.finfo(np.float64).tiny)
    value = float(noise.sum()) / total
    if len(signal) < 2:
        return Estimate(value)
    samples = np.array(
        [
            noise[rows].sum() / max(signal[rows].sum(), np.finfo(np.float64).tiny)
            for rows in _resampled(len(signal), seed)
        ]
    )
    return Estimate(value, *_ends(samples, confidence))


def complement(figure: Estimate) -> Estimate:
    """Return the estimate of one minus a figure."""
    if figure.low is None or figure.high is None:
        return Estimate(1 - figure.value)
    return Estimate(1 - figure.value, 1 - figure.high, 1 - figure.low)


def decibels(noise: Estimate) -> Estimate:
    """Convert noise over signal to an SQNR in dB; the ends of the interval change places."""
    return Estimate(
        sqnr_db(1.0, noise.value),
        None if noise.high is None else sqnr_db(1.0, noise.high),
        None if noise.low is None else sqnr_db(1.0, noise.low),
    )


def _resampled(count: int, seed: int) -> NDArray[np.intp]:
    """Rows of every bootstrap sample, intp[resamples, count]."""
    return np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))


def _ends(samples: Array64, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _normal_quantile(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
