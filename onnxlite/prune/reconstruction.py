"""Damage of units: the error left after their consumers compensate for the loss.

With second moments G = X'X of a layer's input, removing the features S and fitting the
other weights anew leaves, at best, the squared error

    e(S) = tr( W_S' [ (G^-1)_SS ]^-1 W_S ),

and the other weights become `W - (G^-1)_:S [ (G^-1)_SS ]^-1 W_S` (optimal brain surgeon,
Hassibi & Stork 1993; in blocks Kurtic et al. 2022, structured ZipLM 2023). Units are removed
greedily, the cheapest first, and costs are updated after each removal: of two redundant
units only the first is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.units import in_groups
from onnxlite.calibrate.moments import Moments, precise
from onnxlite.graph import const_array
from onnxlite.ops import Ids
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.prune.importance import Array64, DamageCurve, curve_of

#: For layers with more features only their energies are used, not their correlations.
MAX_FEATURES = 4608
#: Ridge of the inverse: fraction of a feature's second moment, and of the mean one.
_RIDGE, _MIN_RIDGE = 1e-3, 1e-9
#: Maximum number of removal rounds per group; a round removes several units.
_ROUNDS = 64
#: Number of points of a curve at which its damage is checked on held-out samples.
_CHECKED_POINTS = 8


@dataclass(frozen=True)
class Consumer:
    """A layer that reads units, with the moments of its input.

    Attributes:
        layer: the layer.
        units: the unit of every feature, int64[g, K]; 0 for features without a unit.
        inverse: float32[g, K, K], inverse of the second moments; None if there are too many
            features, and `energy` is used instead.
        energy: float64[g, K], mean square of every feature.
        mean: float64[g, K], mean of every feature; zeros for a layer without a bias.
        power: variance of the layer's output, summed over channels.
        held_out: float32[g, K, K], second moments of held-out samples about `mean`; None
            without such samples.
    """

    layer: LinearLayer
    units: Ids
    inverse: NDArray[np.float32] | None
    energy: Array64
    mean: Array64
    power: float
    held_out: NDArray[np.float32] | None = None

    def without(self, units: Ids) -> tuple[Array64, Array64]:
        """Fit weight `[g, K, M]` and bias `[g, M]` to the loss of some units."""
        weight, bias = self.layer.matrix, self.layer.bias
        adapted = weight.copy()
        for g, own in enumerate(self.units):
            removed = np.flatnonzero(np.isin(own, units))
            if len(removed) and self.inverse is not None:
                columns = self.inverse[g][:, removed].astype(np.float64)
                adapted[g] -= columns @ np.linalg.solve(columns[removed], weight[g][removed])
            adapted[g][removed] = 0.0
        return adapted, bias + np.einsum("gk,gkm->gm", self.mean, weight - adapted)


def units_read(layer: LinearLayer, channels: ChannelMap) -> Ids | None:
    """Return the unit of every feature `[g, K]`; None if the layer reads no units."""
    array = const_array(layer.weight)
    assert array is not None
    for axis in range(array.ndim):
        line = channels.slices.get((layer.weight, axis))
        if line is None:
            continue
        ids = np.zeros(array.shape, np.int64)
        for part, own in in_groups(ids, channels.root[line]):
            np.moveaxis(part, axis, -1)[...] = own
        arranged = layer.geometry.arranged(ids)
        features = arranged[:, :, 0]
        # Units that the layer produces are equal for all features of an output; skip those.
        if (arranged == features[:, :, None]).all() and (features != features[:, :1]).any():
            return np.ascontiguousarray(features)
    return None


def is_even(consumer: Consumer, units: Ids) -> bool:
    """Return True if a layer reads equally many features of every unit per group."""
    for own in consumer.units:
        counts = np.bincount(np.searchsorted(units, own[np.isin(own, units)]), minlength=len(units))
        if not counts.all() or (counts != counts[0]).any():
            return False
    return True


def consumer_of(
    layer: LinearLayer, units: Ids, moments: Moments, held_out: Moments | None = None
) -> Consumer:
    """Make the consumer of a layer from the moments of its input.

    Args:
        layer: the layer; its bias, if it has one, absorbs the mean of removed features.
        units: the unit of every feature, see `units_read`.
        moments: moments of the layer's input.
        held_out: moments of held-out samples, to check the damage on.
    """
    if layer.bias_node is None:
        moments = moments.about_zero()
    weight = layer.matrix
    gram = moments.gram / moments.rows
    power = float(np.einsum("gkm,gkm->", weight, gram @ weight))
    energy = np.diagonal(gram, axis1=1, axis2=2).copy()
    inverse = None
    if weight.shape[1] <= MAX_FEATURES:
        # In proportion to each feature, so that a constant feature costs nothing.
        least = np.maximum(_MIN_RIDGE * energy.mean(axis=1), np.finfo(np.float32).tiny)
        # With few rows correlations between features are overestimated, so they are shrunk
        # towards zero, the more so the more features there are per row.
        features = weight.shape[1]
        shrinkage = (features / (features + moments.rows)) ** 2
        gram *= 1 - shrinkage
        ridge = (_RIDGE + shrinkage) * energy + least[:, None]
        gram += ridge[:, :, None] * np.eye(features)
        inverse = _inverse(gram)
    return Consumer(
        layer=layer,
        units=units,
        inverse=inverse,
        energy=energy,
        mean=moments.mean_x,
        power=max(power, 1e-30),
        held_out=None if held_out is None or inverse is None else _about(held_out, moments.mean_x),
    )


def _about(moments: Moments, mean: Array64) -> NDArray[np.float32]:
    """Compute second moments per row about a given mean."""
    shift = moments.mean_x - mean
    gram = moments.gram / moments.rows + shift[:, :, None] * shift[:, None, :]
    return gram.astype(np.float32)


def reconstruction_curve(units: Ids, consumers: Sequence[Consumer]) -> DamageCurve:
    """Order the units of a group greedily, with the error left after each removal.

    Args:
        units: units of one group, read by every consumer.
        consumers: the layers that read them. Errors are relative to the layer's power and are
            added.
    """
    order: list[int] = []
    damage = [0.0]
    for picked, costs, _ in _greedy(units, consumers):
        damage += (damage[-1] + costs).tolist()
        order += picked.tolist()
    return DamageCurve(units[order], np.maximum.accumulate(np.array(damage)))


def energy_curve(units: NDArray[np.int64], consumers: Sequence[Consumer]) -> DamageCurve:
    """Order units by the mean square of their features times |w|^2.

    Wanda's criterion (Sun et al. 2023), summed over the features of a unit.
    """
    total = np.zeros(len(units))
    for consumer in consumers:
        energy = consumer.energy * np.square(consumer.layer.matrix).sum(axis=2)
        own = np.isin(consumer.units, units)
        np.add.at(total, np.searchsorted(units, consumer.units[own]), energy[own] / energy.sum())
    return curve_of(units, total)


def overconfidence(units: Ids, consumers: Sequence[Consumer]) -> Array64:
    """Ratio of the damage on held-out samples to that of a curve, float64[units + 1].

    With few samples correlations between features are overestimated, so the damage of the
    greedy order is measured again on held-out samples. At least 1; all ones if a consumer
    has no held-out samples.
    """
    removed, damage = 0, 0.0
    checked, factors = [0], [1.0]
    for picked, costs, losses in _greedy(units, consumers):
        removed += len(picked)
        damage += float(costs[-1])
        if removed < len(units) * len(checked) / _CHECKED_POINTS or damage <= 0:
            continue
        held_out = [loss.held_out_cost() for loss in losses]
        known = [cost for cost in held_out if cost is not None]
        if len(known) == len(held_out):
            checked.append(removed)
            factors.append(max(1.0, sum(known) / damage))
    factors[0] = factors[min(1, len(factors) - 1)]
    return np.interp(np.arange(len(units) + 1), checked, factors)


def _inverse(gram: Array64) -> NDArray[np.float32] | None:
    """Invert the second moments; None if float32 does not hold the result."""
    inverse = np.linalg.inv(gram).astype(np.float32)
    diagonal = np.diagonal(inverse, axis1=1, axis2=2)
    held = bool(np.isfinite(inverse).all() and (diagonal > np.finfo(np.float32).tiny).all())
    return inverse if held else None


def _greedy(
    units: Ids, consumers: Sequence[Consumer]
) -> Iterator[tuple[NDArray[np.intp], Array64, list[_Loss]]]:
    """Remove the cheapest units round by round; yield them and their running cost."""
    losses = [_Loss(consumer, units) for consumer in consumers]
    alive = np.arange(len(units))
    at_once = -(-len(units) // _ROUNDS)
    while len(alive):
        scores = np.sum([loss.scores(alive) for loss in losses], axis=0)
        least = np.argsort(scores, kind="stable")[:at_once]
        picked = alive[least]
        # The cost of a round is divided among its units in proportion to their scores.
        cost = sum(loss.remove(picked) for loss in losses)
        fractions = np.cumsum(scores[least]) / max(float(scores[least].sum()), 1e-300)
        yield picked, cost * fractions, losses
        alive = np.delete(alive, least)


class _Loss:
    """State of the greedy removal: one consumer's features of one group's units."""

    def __init__(self, consumer: Consumer, units: Ids) -> None:
        weight = consumer.layer.matrix
        self._power = consumer.power
        groups = range(len(weight))
        own = [np.flatnonzero(np.isin(consumer.units[g], units)) for g in groups]
        self._weight = [weight[g][own[g]] for g in groups]
        self._places = [_places(consumer.units[g][own[g]], units) for g in groups]
        if consumer.inverse is None:
            energies = [np.maximum(consumer.energy[g][own[g]], 1e-30) for g in groups]
            self._inverse = [np.diag(1 / energy) for energy in energies]
        else:
            self._inverse = [
                consumer.inverse[g][np.ix_(own[g], own[g])].astype(np.float64) for g in groups
            ]
        self._start = [weight.copy() for weight in self._weight]
        self._held_out = (
            None
            if consumer.held_out is None
            else [consumer.held_out[g][np.ix_(own[g], own[g])] for g in groups]
        )

    def scores(self, alive: NDArray[np.intp]) -> Array64:
        """Cost of removing each unit alone, as a fraction of the power."""
        total = np.zeros(len(alive))
        for weight, places, inverse in zip(self._weight, self._places, self._inverse, strict=True):
            at = places[alive]
            if not at.shape[1]:
                continue
            blocks = inverse[at[:, :, None], at[:, None, :]]
            rows = weight[at]
            total += np.einsum("usm,usm->u", rows, np.linalg.solve(blocks, rows))
        return total / self._power

    def held_out_cost(self) -> float | None:
        """Cost of all removals on held-out samples, as a fraction of the power."""
        if self._held_out is None:
            return None
        cost = 0.0
        for weight, start, gram in zip(self._weight, self._start, self._held_out, strict=True):
            change = (weight - start).astype(np.float32)
            cost += float(np.einsum("km,km->", change, precise(gram) @ change, dtype=np.float64))
        return cost / self._power

    def remove(self, units: NDArray[np.intp]) -> float:
        """Remove units, adapt the other weights, and return the cost."""
        cost = 0.0
        for index, (weight, places) in enumerate(zip(self._weight, self._places, strict=True)):
            removed = places[units].reshape(-1)
            inverse = self._inverse[index]
            if not len(removed):
                continue
            columns = inverse[:, removed]
            solved = np.linalg.solve(
                columns[removed], np.concatenate([weight[removed], columns.T], 1)
            )
            cost += float((weight[removed] * solved[:, : weight.shape[1]]).sum())
            change = columns @ solved
            weight -= change[:, : weight.shape[1]]
            inverse -= change[:, weight.shape[1] :]
            # Removed features stay zero; a unit diagonal keeps later systems regular.
            weight[removed] = 0.0
            inverse[removed], inverse[:, removed] = 0.0, 0.0
            inverse[removed, removed] = 1.0
        return cost / self._power


def _places(features: Ids, units: Ids) -> NDArray[np.intp]:
    """Indices of each unit's features, intp[units, features of one unit]."""
    order = np.argsort(features, kind="stable")
    return order.reshape(len(units), -1)
