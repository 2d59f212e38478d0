"""Sparsity allocation: the fraction of zeros of each layer, by least total damage.

The damage of a layer's zeros is the error of its own output, computed from second moments at
every sparsity level, scaled to the model's outputs by one short run per layer. At the optimum
all layers have the same damage per weight (equal slopes), found by Lagrangian relaxation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Sparsities at which the damage to a layer is computed.
LEVELS = (0.0, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97)
#: Sparsities that can be allocated.
_SPARSITIES = np.linspace(0.0, LEVELS[-1], 195)
_MIN_DAMAGE, _MAX_DAMAGE = 1e-12, 1e300

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class LayerCurve:
    """Damage of zeros in one layer.

    Attributes:
        weights: number of weights of the layer.
        damage: damage at each of `LEVELS`, nonnegative and nondecreasing.
    """

    weights: int
    damage: tuple[float, ...]

    def at(self, sparsities: Array64) -> Array64:
        """Interpolate the damage; log-linearly, because it grows about exponentially."""
        rising = np.maximum.accumulate(np.clip(self.damage[1:], _MIN_DAMAGE, _MAX_DAMAGE))
        logs = np.interp(sparsities, LEVELS[1:], np.log(rising))
        # Below the first level damage is assumed to grow with the square of the sparsity.
        first = rising[0] * (sparsities / LEVELS[1]) ** 2
        result: Array64 = np.where(sparsities < LEVELS[1], first, np.exp(logs))
        return result

    def times(self, factor: float) -> LayerCurve:
        """Scale the damage by a factor."""
        return LayerCurve(self.weights, tuple(value * factor for value in self.damage))


def level_near(sparsity: float) -> int:
    """Index of the level to probe for a sparsity: the next one above it."""
    above = [index for index, level in enumerate(LEVELS) if level >= sparsity + 0.05]
    return above[0] if above else len(LEVELS) - 1


def allocate_sparsity(curves: Mapping[str, LayerCurve], sparsity: float) -> dict[str, float]:
    """Allocate sparsities of least total damage that zero a fraction of all weights.

    Each layer takes the sparsity that minimizes its damage plus `price * remaining weights`;
    the price is found by bisection (Lagrangian relaxation).

    Args:
        curves: damage by layer name.
        sparsity: fraction of all weights to zero.

    Returns:
        The sparsity of each layer.
    """
    total = sum(curve.weights for curve in curves.values())
    damages = {name: curve.at(_SPARSITIES) for name, curve in curves.items()}

    def chosen(price: float) -> dict[str, float]:
        return {
            name: float(_SPARSITIES[np.argmin(damages[name] - price * curve.weights * _SPARSITIES)])
            for name, curve in curves.items()
        }

    def overall(sparsities: Mapping[str, float]) -> float:
        return sum(curves[name].weights * value for name, value in sparsities.items()) / total

    low, high = math.log(1e-30), math.log(1e12)
    for _ in range(80):
        middle = (low + high) / 2
        if overall(chosen(math.exp(middle))) < sparsity:
            low = middle
        else:
            high = middle
    return _without_excess(chosen(math.exp(high)), curves, sparsity * total)


def _without_excess(
    sparsities: dict[str, float], curves: Mapping[str, LayerCurve], zeros: float
) -> dict[str, float]:
    """Reduce the largest layers' sparsities by what the bisection overshoots."""
    excess = sum(curves[name].weights * value for name, value in sparsities.items()) - zeros
    for name in sorted(sparsities, key=lambda name: -curves[name].weights):
        reduction = min(max(excess, 0.0), sparsities[name] * curves[name].weights)
        # Rounding may make a sparsity negative.
        sparsities[name] = max(0.0, sparsities[name] - reduction / curves[name].weights)
        excess -= reduction
    return sparsities


def allocate_observed(
    curves: Mapping[str, LayerCurve], sparsity: float
) -> tuple[dict[str, float], set[str]]:
    """Allocate sparsities to layers with damage; give the others the overall sparsity.

    Zeros in a layer without damage change no output on any sample: it is in a branch that no
    sample takes. Allocation would give such a layer the highest sparsity.

    Returns:
        The sparsity of each layer, and the names of the layers without damage.
    """
    unobserved = {name for name, curve in curves.items() if not any(curve.damage)}
    observed = {name: curve for name, curve in curves.items() if name not in unobserved}
    sparsities = dict.fromkeys(unobserved, sparsity)
    return {**sparsities, **(allocate_sparsity(observed, sparsity) if observed else {})}, unobserved


def energy_curve(array: NDArray[Any]) -> LayerCurve:
    """Damage without moments: the energy of the smallest weights over that of all."""
    energy = np.sort(np.square(array.astype(np.float64)).reshape(-1))
    summed = np.concatenate([[0.0], np.cumsum(energy)])
    whole = summed[-1] or 1.0
    return LayerCurve(
        array.size, tuple(float(summed[round(level * array.size)] / whole) for level in LEVELS)
    )


def probed(
    curves: Mapping[str, LayerCurve],
    sparsity: float,
    distance: Callable[[str, int], float],
    progress: Callable[[int, int], None],
) -> dict[str, LayerCurve]:
    """Scale curves to damage at the model's outputs, by one trial per layer.

    Args:
        curves: damage at each layer's own output.
        sparsity: sparsity to allocate; trials run at the next level above it.
        distance: error of the model's outputs with the zeros of one level in one layer alone.
        progress: called as layers are done.
    """
    level = level_near(sparsity)
    result = {}
    for index, (name, curve) in enumerate(curves.items()):
        progress(index, len(curves))
        local = max(curve.damage[level], _MIN_DAMAGE)
        result[name] = curve.times(distance(name, level) / local)
    return result


def magnitude_sparsities(weights: Mapping[str, NDArray[Any]], sparsity: float) -> dict[str, float]:
    """Sparsity of each weight under one magnitude threshold for all weights."""
    pooled = np.concatenate([np.abs(w.reshape(-1)).astype(np.float32) for w in weights.values()])
    count = round(sparsity * pooled.size)
    limit = np.partition(pooled, count - 1)[count - 1] if count else np.float32(-1)
    return {name: float((np.abs(w) <= limit).mean()) for name, w in weights.items()}


def schedule(sparsity: float, steps: int) -> Sequence[float]:
    """Sparsities after each step; every step keeps the same fraction of the weights."""
    return [1 - (1 - sparsity) ** (step / steps) for step in range(1, steps)] + [sparsity]
