"""Estimates from a sample of inputs, with confidence intervals.

All intervals hold with a given confidence, two-sided.
"""

from __future__ import annotations

import functools
import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from onnxlite.evaluate.per_sample import SampleSpread, sample_sqnr_db, spread_of
from onnxlite.fidelity import sqnr_db

Array64 = NDArray[np.float64]

#: Fewer samples easily miss what happens to 1 in 100: 3 / n is the largest probability of an event
#: that n samples have not shown, with 95% confidence (Hanley & Lippman-Hand 1983).
ENOUGH_SAMPLES = 300
#: Distance of the end of the range from the worst sample, relative to that from the median.
_EXTRAPOLATION = 1.5
_RESAMPLES = 1000
#: Weights drawn at a time.
_BLOCK = 1 << 20
#: Power of an output that is zero on all samples.
_TINY = 1e-150


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its interval; both ends are None where the samples give no interval.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end.
        worst_case: unfavourable end if losses up to the largest possible one were missed; None
            where none is known.
        spread: of the samples; None of figures that are not means over samples.
    """

    value: float
    low: float | None = None
    high: float | None = None
    worst_case: float | None = None
    spread: SampleSpread | None = None

    @property
    def is_reliable(self) -> bool:
        """True if the interval can be trusted: enough samples, and no heavy tail among them."""
        spread = self.spread
        return spread is None or (spread.samples >= ENOUGH_SAMPLES and not spread.is_heavy)

    @property
    def doubt(self) -> str | None:
        """Say why the interval cannot be trusted; None if it can."""
        if self.spread is None or self.is_reliable:
            return None
        spread, count = self.spread, self.spread.worst_count
        if spread.is_heavy:
            some = f"the worst {count}" if count > 1 else "one"
            return (
                f"{some} of them made {spread.worst_fraction:.0%} of the loss (sample "
                f"{spread.worst_sample}: {spread.worst:.3g}, median {spread.median:.3g})"
            )
        missed = 1 - 0.05 ** (1 / spread.samples)
        return f"so few can miss what happens to 1 in {1 / missed:.0f}"

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def proportion(successes: int, count: int, *, confidence: float) -> Estimate:
    """Estimate a proportion with its exact interval (Clopper & Pearson 1934)."""
    low, value, high = _exact(successes, count, confidence)
    return Estimate(value, low, high)


def paired_drop(reference: Array64, candidate: Array64, *, confidence: float) -> Estimate:
    """Estimate the fraction of samples that the candidate gets wrong in addition.

    The interval joins the exact ones of the samples lost and won: the distances from the figures
    to their ends are added as squares (MOVER, Zou & Donner 2008).

    Args:
        reference: 1 where the reference is right, else 0.
        candidate: the same of the candidate.
        confidence: of the interval.
    """
    count = len(reference)
    lost = _exact(int(np.sum((reference > 0) & (candidate == 0))), count, confidence)
    won = _exact(int(np.sum((reference == 0) & (candidate > 0))), count, confidence)
    value = lost[1] - won[1]
    return Estimate(
        value,
        value - math.hypot(lost[1] - lost[0], won[2] - won[1]),
        value + math.hypot(lost[2] - lost[1], won[1] - won[0]),
    )


def mean_loss(
    losses: Array64, *, confidence: float, largest: float | None = None, seed: int = 0
) -> Estimate:
    """Estimate the mean of losses per sample, with an interval that allows for a longer tail.

    The samples are weighted at random (Bayesian bootstrap, Rubin 1981) together with one more at
    the end of their range, which makes a bound of the mean of a bounded variable that is exact
    for proportions (Gaffke 2005; Learned-Miller & Thomas 2019). The end of the range is taken to
    lie 1.5 times as far beyond the worst sample as that lies from the median: with it the
    interval covers the mean of a Pareto distribution of alpha 1.5 in 94.5% of draws of 400
    samples.

    Args:
        losses: float64[samples]; may be negative where a candidate gains.
        confidence: of the interval.
        largest: loss of a sample whose output is lost altogether; None if it is not known.
        seed: of the weights.
    """
    return _weighted(losses, np.ones(len(losses)), confidence, largest, seed)


def noise_ratio(
    signal: Array64,
    noise: Array64,
    *,
    confidence: float,
    largest: float | None = 1.0,
    seed: int = 0,
) -> Estimate:
    """Estimate `sum(noise) / sum(signal)` over all samples, with an interval as of `mean_loss`.

    Args:
        signal: sum of squares of each sample's reference, float64[samples].
        noise: the same of its difference.
        confidence: of the interval.
        largest: noise of one sample relative to the mean signal; 1 is that of an output of zeros.
        seed: of the weights.
    """
    power = max(float(signal.mean()), _TINY)
    return _weighted(noise / power, signal / power, confidence, largest, seed)


def largest_loss(losses: Array64) -> Estimate:
    """Estimate the largest loss of any sample, of which the samples show a lower end alone.

    Args:
        losses: float64[samples], the largest of each.
    """
    value = float(losses.max(initial=0.0))
    return Estimate(value, value, None, None, spread_of(losses) if len(losses) else None)


def complement(figure: Estimate) -> Estimate:
    """Return the estimate of one minus a figure."""
    low, high, worst, spread = figure.low, figure.high, figure.worst_case, figure.spread
    return Estimate(
        1 - figure.value,
        None if high is None else 1 - high,
        None if low is None else 1 - low,
        None if worst is None else 1 - worst,
        None if spread is None else spread.converted(lambda value: 1 - value),
    )


def decibels(noise: Estimate) -> Estimate:
    """Convert noise over signal to an SQNR in dB; the ends of the interval change places."""
    low, high, worst, spread = noise.low, noise.high, noise.worst_case, noise.spread
    return Estimate(
        sqnr_db(1.0, noise.value),
        None if high is None else sqnr_db(1.0, high),
        None if low is None else sqnr_db(1.0, low),
        None if worst is None else sqnr_db(1.0, worst),
        None if spread is None else spread.converted(sample_sqnr_db),
    )


def _weighted(
    losses: Array64, signal: Array64, confidence: float, largest: float | None, seed: int
) -> Estimate:
    """Estimate `sum(losses) / sum(signal)`; the mean signal is 1, or all of it is 0."""
    value = float(losses.sum()) / max(float(signal.sum()), _TINY)
    median, worst, best = float(np.median(losses)), float(losses.max()), float(losses.min())
    above = worst + _EXTRAPOLATION * (worst - median)
    below = best - _EXTRAPOLATION * (median - best)
    if best >= 0:
        below = max(below, 0.0)  # the candidate gains nothing on any sample
    if largest is not None and max(worst, -best) > largest * (1 + 1e-9):
        largest = None  # it is not the largest
    if largest is not None:
        above, below = min(above, largest), max(below, -largest)
    tail = 100 * (1 - confidence) / 2
    summed, weight, extra = _random_sums(losses, signal, seed)

    def end(loss: float, percentile: float) -> float:
        return float(np.percentile((summed + extra * loss) / (weight + extra), percentile))

    is_one = len(losses) < 2
    return Estimate(
        value,
        None if is_one else min(end(below, tail), value),
        None if is_one else max(end(above, 100 - tail), value),
        None if largest is None else max(end(largest, 100 - tail), value),
        spread_of(losses),
    )


def _random_sums(losses: Array64, signal: Array64, seed: int) -> tuple[Array64, Array64, Array64]:
    """Sums of losses and signal with random weights, and the weight of one more sample."""
    columns = np.stack([losses, signal], axis=1)
    rows = min(max(1, _BLOCK // len(losses)), _RESAMPLES)
    blocks = range(math.ceil(_RESAMPLES / rows))
    parts = [_weights(rows, len(losses), (seed, block)) @ columns for block in blocks]
    sums = np.concatenate(parts)[:_RESAMPLES]
    extra = np.random.default_rng((seed, len(blocks))).exponential(size=_RESAMPLES)
    return sums[:, 0], sums[:, 1], extra


@functools.lru_cache(maxsize=1)
def _weights(rows: int, count: int, seed: tuple[int, int]) -> Array64:
    """Exponential weights: divided by their sum they are uniform on the simplex.

    The figures of a candidate, and those of all candidates, have the same number of samples.
    """
    return np.random.default_rng(seed).exponential(size=(rows, count))


def _exact(successes: int, count: int, confidence: float) -> tuple[float, float, float]:
    """A proportion between the ends of its exact interval."""
    tail = (1 - confidence) / 2
    low = _binomial_bound(successes, count, tail) if successes else 0.0
    high = 1 - _binomial_bound(count - successes, count, tail) if successes < count else 1.0
    return low, successes / count, high


def _binomial_bound(successes: int, count: int, tail: float) -> float:
    """Largest probability at which at least so many successes are as rare as `tail`."""
    hits = np.arange(successes, count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    ways = factorials[count] - factorials[hits] - factorials[count - hits]
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        chance = np.exp(ways + hits * math.log(p) + (count - hits) * math.log1p(-p)).sum()
        low, high = (p, high) if chance < tail else (low, p)
    return low
