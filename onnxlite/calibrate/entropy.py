"""The range whose quantized distribution differs least from the real one (KL divergence).

Migacz 2017, "8-bit inference with TensorRT", for either limit in turn: what lies outside is
counted in the outermost bin of the reference, and each level's elements are spread evenly
over the bins that it stands for and that are not empty. Zero is exact in every range, so it does
not count: behind a Relu its bin would outweigh all others.
"""

from __future__ import annotations

import numpy as np

from onnxlite.calibrate.histogram import Array64
from onnxlite.calibrate.levels import SEARCH_BINS, Levels
from onnxlite.calibrate.mse import search
from onnxlite.calibrate.ranges import Range
from onnxlite.calibrate.statistics import ValueStatistics

_FACTORS = np.linspace(1.0, 0.3, 29)


def entropy_range(seen: ValueStatistics, levels: Levels) -> Range:
    """Search both limits, one after the other, for the least divergence."""
    middles, counts = seen.histogram.at_most(SEARCH_BINS).occupied()
    middles, counts = middles[middles != 0], counts[middles != 0]
    if not middles.size:
        return seen.range

    def cost(low: Array64, high: Array64) -> Array64:
        scale, zero = levels.scale_zero(low, high)
        pairs = zip(scale.tolist(), zero.tolist(), strict=True)
        return np.array([_divergence(middles, counts, levels, s, z) for s, z in pairs])

    return search(seen.range, cost, factors=_FACTORS)


def _divergence(
    middles: Array64, counts: Array64, levels: Levels, scale: float, zero: float
) -> float:
    step = np.rint(middles / scale) + zero
    inside = np.flatnonzero((step >= levels.qmin) & (step <= levels.qmax))
    if not inside.size:
        return float("inf")
    kept = counts[inside]
    reference = kept.copy()
    reference[0] += counts[: inside[0]].sum()
    reference[-1] += counts[inside[-1] + 1 :].sum()
    level = (step[inside] - levels.qmin).astype(np.intp)
    # The quantized distribution knows only what was inside.
    spread = np.bincount(level, kept) / np.maximum(np.bincount(level), 1)
    total, mass = reference.sum(), kept.sum()
    return float((reference * np.log(reference * mass / (spread[level] * total))).sum() / total)
