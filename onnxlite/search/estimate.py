"""Figures with their uncertainty: what a sample of inputs says about all inputs.

All intervals hold with a given confidence, two-sided.
"""

from __future__ import annotations

import math
import statistics

import msgspec
import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]

_RESAMPLES = 1000


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its interval; both ends are None where one sample set says nothing of it."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def share(successes: int, count: int, *, confidence: float) -> Estimate:
    """A proportion with its score interval (Wilson 1927), which also holds near 0 and 1."""
    z = _normal_quantile(confidence)
    p = successes / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return Estimate(p, max(centre - half, 0.0), min(centre + half, 1.0))


def paired_drop(reference: Array64, candidate: Array64, *, confidence: float) -> Estimate:
    """How many more of the same samples the reference gets right, as a share.

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
    """A mean with its bootstrap interval (Efron 1979, percentile method)."""
    if len(values) < 2:
        return Estimate(float(values.mean()))
    samples = np.stack([values[rows].mean() for rows in _resampled(len(values), seed)])
    return Estimate(float(values.mean()), *_ends(samples, confidence))


def noise_share(signal: Array64, noise: Array64, *, confidence: float, seed: int = 0) -> Estimate:
    """The noise of all samples over their signal, `sum(noise) / sum(signal)`, bootstrapped."""
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


def decibels(noise: Estimate) -> Estimate:
    """A share of noise as a signal to noise ratio in dB; ends change places."""
    return Estimate(
        _decibels(noise.value),
        None if noise.high is None else _decibels(noise.high),
        None if noise.low is None else _decibels(noise.low),
    )


def _decibels(share_of_noise: float) -> float:
    return math.inf if share_of_noise <= 0 else -10 * math.log10(share_of_noise)


def _resampled(count: int, seed: int) -> NDArray[np.intp]:
    """Rows of every bootstrap sample, intp[resamples, count]."""
    return np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))


def _ends(samples: Array64, confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _normal_quantile(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
