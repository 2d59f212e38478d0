"""Intervals of means with few samples and heavy tails: `python -m benchmarks.intervals`.

Every row is many draws of one noise, losses per sample of which the true mean is known. `covers` is
how often the 95% interval holds the truth; `worst_case` the same of the interval that allows for
losses up to 1 that the samples missed (where they have no larger ones themselves);
`covers_or_undecided` how often it holds the truth or is not trusted. `undecided_*` is how often the
verdict on a limit is "undecided": on a limit of twice the true mean, and on one of 0.05. Every
noise but the mixture is scaled to a mean of 0.001.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks._tables import publish
from onnxlite.search.budget import Budget
from onnxlite.search.estimate import Estimate, mean_loss

Array64: TypeAlias = NDArray[np.float64]
#: Draws losses per sample, float64[samples].
Noise: TypeAlias = Callable[[np.random.Generator, int], Array64]

COUNTS = (24, 100, 400)
DRAWS = 200
MEAN = 1e-3
LOOSE_LIMIT = 0.05


def log_normal(sigma: float) -> Noise:
    """Log-normal noise of mean 1."""
    return lambda rng, n: rng.lognormal(-sigma * sigma / 2, sigma, n)


def pareto(alpha: float) -> Noise:
    """Pareto noise of mean 1; below 2 it has no variance."""
    return lambda rng, n: (1 + rng.pareto(alpha, n)) * (alpha - 1) / alpha


def mixture(rng: np.random.Generator, n: int) -> Array64:
    """1% of 0.12 in 6e-8, relative to `MEAN`: an OCR direction classifier in INT8."""
    return np.where(rng.random(n) < 0.01, 0.12, 6e-8) / MEAN


#: Noises by name; all have a mean of 1 but the mixture.
HEAVY: Mapping[str, Noise] = {
    "log-normal, sigma 2": log_normal(2),
    "log-normal, sigma 2.5": log_normal(2.5),
    "log-normal, sigma 3": log_normal(3),
    "Pareto, alpha 1.5": pareto(1.5),
    "Pareto, alpha 2": pareto(2),
    "Pareto, alpha 2.5": pareto(2.5),
    "1% of 0.12 in 6e-8": mixture,
}
LIGHT: Mapping[str, Noise] = {
    "normal, sigma 0.2": lambda rng, n: rng.normal(1, 0.2, n),
    "uniform": lambda rng, n: rng.uniform(0, 2, n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "gamma, shape 4": lambda rng, n: rng.gamma(4, 0.25, n),
    "log-normal, sigma 0.5": log_normal(0.5),
    "log-normal, sigma 1": log_normal(1),
}


def true_mean(name: str) -> float:
    """True mean of a noise of `HEAVY` or `LIGHT`."""
    return 0.01 * 0.12 + 0.99 * 6e-8 if HEAVY.get(name) is mixture else MEAN


def estimates(noise: Noise, count: int, draws: int, seed: int = 0) -> list[Estimate]:
    """Estimate the mean of a noise from `count` samples, several times."""
    rng = np.random.default_rng(seed)
    return [mean_loss(MEAN * noise(rng, count), confidence=0.95, largest=1.0) for _ in range(draws)]


def row(name: str, noise: Noise, count: int, draws: int) -> dict[str, Any]:
    """Coverage and verdicts of one noise and number of samples."""
    found, truth = estimates(noise, count, draws), true_mean(name)
    covers = [e.low is not None and e.high is not None and e.low <= truth <= e.high for e in found]
    widths = [(e.high or math.nan) - (e.low or 0.0) for e in found]
    tight = [_verdict(e, 2 * truth, count) for e in found]
    loose = [_verdict(e, LOOSE_LIMIT, count) for e in found]
    return {
        "noise": name,
        "samples": count,
        "covers": _mean(covers),
        "worst_case": _mean(e.worst_case is None or e.worst_case >= truth for e in found),
        "covers_or_undecided": _mean(
            c or not e.is_reliable for c, e in zip(covers, found, strict=True)
        ),
        "width_over_mean": round(float(np.median(widths)) / truth, 3),
        "heavy": _mean(e.spread is not None and e.spread.is_heavy for e in found),
        "undecided_at_twice": _mean(verdict == "undecided" for verdict in tight),
        f"undecided_at_{LOOSE_LIMIT:g}": _mean(verdict == "undecided" for verdict in loose),
    }


def _verdict(estimate: Estimate, limit: float, samples: int) -> str:
    return Budget(max_drop=limit).compare({"drop": estimate}, samples)[0].verdict


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    draws = parser.parse_args(arguments).draws
    noises = {**HEAVY, **LIGHT}
    rows = [row(name, noise, n, draws) for name, noise in noises.items() for n in COUNTS]
    publish("intervals", rows, title=f"95% intervals of a mean, {draws} draws")


if __name__ == "__main__":
    main()
