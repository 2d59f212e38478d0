"""How many zeros each layer gets: most where the outputs of the model suffer least.

The damage of a layer's zeros is what its output loses by them, known from second moments at
any share, times how much of that arrives at the model's outputs, which one short run per layer
measures. Shares follow from equal slopes: no weight more here could be exchanged for one less
there at a gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Shares of zeros at which the damage to a layer is computed.
LEVELS = (0.0, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97)
#: Shares that are allotted.
_SHARES = np.linspace(0.0, LEVELS[-1], 195)
_LEAST = 1e-12

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class LayerCurve:
    """The damage that zeros in one layer do.

    Attributes:
        weights: how many the layer has.
        damage: at each of `LEVELS`, not negative and rising.
    """

    weights: int
    damage: tuple[float, ...]

    def at(self, shares: Array64) -> Array64:
        """Damage at other shares; it grows about exponentially, so its logarithm is joined."""
        rising = np.maximum.accumulate(np.maximum(self.damage[1:], _LEAST))
        logs = np.interp(shares, LEVELS[1:], np.log(rising))
        # Below the first level damage is taken to grow with the square of the share.
        first = rising[0] * (shares / LEVELS[1]) ** 2
        result: Array64 = np.where(shares < LEVELS[1], first, np.exp(logs))
        return result

    def times(self, factor: float) -> LayerCurve:
        """The same, weighed."""
        return LayerCurve(self.weights, tuple(value * factor for value in self.damage))


def level_near(share: float) -> int:
    """The level at which a probe tells most about a share: the next one above it."""
    above = [index for index, level in enumerate(LEVELS) if level >= share + 0.05]
    return above[0] if above else len(LEVELS) - 1


def allocate_sparsity(curves: Mapping[str, LayerCurve], share: float) -> dict[str, float]:
    """Shares of zeros by layer, of least total damage, that make `share` of all weights zero.

    Each layer takes the share at which its damage plus `price * weights left` is least; the
    price is found by bisection (Lagrangian relaxation).
    """
    total = sum(curve.weights for curve in curves.values())
    damages = {name: curve.at(_SHARES) for name, curve in curves.items()}

    def chosen(price: float) -> dict[str, float]:
        return {
            name: float(_SHARES[np.argmin(damages[name] - price * curve.weights * _SHARES)])
            for name, curve in curves.items()
        }

    def reached(shares: Mapping[str, float]) -> float:
        return sum(curves[name].weights * value for name, value in shares.items()) / total

    low, high = math.log(1e-30), math.log(1e12)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(chosen(math.exp(middle))) < share else (low, middle)
    return _resolved_options(chosen(math.exp(high)), curves, share * total)


def _resolved_options(
    shares: dict[str, float], curves: Mapping[str, LayerCurve], zeros: float
) -> dict[str, float]:
    """The last step of the bisection overshoots: the largest layers give that back."""
    over = sum(curves[name].weights * value for name, value in shares.items()) - zeros
    for name in sorted(shares, key=lambda name: -curves[name].weights):
        given = min(max(over, 0.0), shares[name] * curves[name].weights)
        # Rounding may leave less than nothing of a share.
        shares[name] = max(0.0, shares[name] - given / curves[name].weights)
        over -= given
    return shares


def allocate_observed(
    curves: Mapping[str, LayerCurve], share: float
) -> tuple[dict[str, float], set[str]]:
    """Like `allocate_sparsity`, but layers without any damage get `share`, and are named.

    Their zeros change nothing for any sample: they are in a branch that none takes, and what
    cannot be seen must not pay for what can.
    """
    unseen = {name for name, curve in curves.items() if not any(curve.damage)}
    seen = {name: curve for name, curve in curves.items() if name not in unseen}
    shares = dict.fromkeys(unseen, share)
    return {**shares, **(allocate_sparsity(seen, share) if seen else {})}, unseen


def energy_curve(array: NDArray[Any]) -> LayerCurve:
    """Without moments: the share of a weight's energy that the smallest numbers hold."""
    energy = np.sort(np.square(array.astype(np.float64)).reshape(-1))
    summed = np.concatenate([[0.0], np.cumsum(energy)])
    whole = summed[-1] or 1.0
    return LayerCurve(
        array.size, tuple(float(summed[round(level * array.size)] / whole) for level in LEVELS)
    )


def probed(
    curves: Mapping[str, LayerCurve],
    share: float,
    distance: Callable[[str, int], float],
    progress: Callable[[int, int], None],
) -> dict[str, LayerCurve]:
    """The curves as damage at the outputs: one trial a layer, at a level near `share`.

    Args:
        curves: damage at each layer's own output.
        share: of zeros that will be asked for.
        distance: of the outputs, with the zeros of one level in one layer alone.
        progress: called as layers are done.
    """
    level = level_near(share)
    result = {}
    for index, (name, curve) in enumerate(curves.items()):
        progress(index, len(curves))
        local = max(curve.damage[level], _LEAST)
        result[name] = curve.times(distance(name, level) / local)
    return result


def magnitude_shares(weights: Mapping[str, NDArray[Any]], share: float) -> dict[str, float]:
    """One threshold of magnitude for all: the share of each weight that lies below it."""
    pooled = np.concatenate([np.abs(w.reshape(-1)).astype(np.float32) for w in weights.values()])
    count = round(share * pooled.size)
    limit = np.partition(pooled, count - 1)[count - 1] if count else np.float32(-1)
    return {name: float((np.abs(w) <= limit).mean()) for name, w in weights.items()}


def schedule(share: float, steps: int) -> Sequence[float]:
    """Shares of zeros after each step: what is left shrinks by the same factor each time."""
    return [1 - (1 - share) ** (step / steps) for step in range(1, steps)] + [share]
