"""Damage as the error that remains when the layers that read a unit make up for its loss.

With second moments G = X'X of a layer's input, removing the features S and fitting the
other weights anew leaves, at best, the squared error

    e(S) = tr( W_S' [ (G^-1)_SS ]^-1 W_S ),

and the other weights become `W - (G^-1)_:S [ (G^-1)_SS ]^-1 W_S` (optimal brain surgeon,
Hassibi & Stork 1993; in blocks Kurtic et al. 2022, structured ZipLM 2023). Units go one
after the other, always the one that costs least now, so that of two units that say the
same only one is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.units import in_groups
from onnxlite.calibrate.moments import Moments
from onnxlite.graph import const_array
from onnxlite.ops import Ids
from onnxlite.ops.linear_layer import LinearLayer
from onnxlite.prune.importance import Array64, DamageCurve, curve_of

#: Of layers with more features only the energy of each is used, not what they share.
MAX_FEATURES = 4608
#: Ridge of the inverse, as a share of a feature's second moment, and of their mean.
_RIDGE, _LEAST_RIDGE = 1e-3, 1e-9
#: Units that go at once, as a share of a group: at most so many rounds a group.
_ROUNDS = 64
#: How often on a curve its damage is checked on samples not seen.
_CHECKS = 8


@dataclass(frozen=True)
class Consumer:
    """A layer that reads units, with what its samples say.

    Attributes:
        layer: the layer.
        units: the unit of every feature, int64[g, K]; 0 for those of no unit.
        inverse: float32[g, K, K] of the second moments, or None where there are too many
            features; then `energy` stands for them.
        energy: float64[g, K], mean square of every feature.
        mean: float64[g, K], of every feature; zeros for a layer that has no bias.
        power: variance of its output, summed over channels.
        unseen: float32[g, K, K], second moments of samples that `inverse` was not made from,
            about `mean`; None without such samples.
    """

    layer: LinearLayer
    units: Ids
    inverse: NDArray[np.float32] | None
    energy: Array64
    mean: Array64
    power: float
    unseen: NDArray[np.float32] | None = None

    def without(self, units: Ids) -> tuple[Array64, Array64]:
        """Weight `[g, K, M]` and bias `[g, M]` that best do without these units."""
        weight, bias = self.layer.matrix, self.layer.bias
        adapted = weight.copy()
        for g, own in enumerate(self.units):
            gone = np.flatnonzero(np.isin(own, units))
            if len(gone) and self.inverse is not None:
                columns = self.inverse[g][:, gone].astype(np.float64)
                adapted[g] -= columns @ np.linalg.solve(columns[gone], weight[g][gone])
            adapted[g][gone] = 0.0
        return adapted, bias + np.einsum("gk,gkm->gm", self.mean, weight - adapted)


def units_read(layer: LinearLayer, channels: ChannelMap) -> Ids | None:
    """The unit of every feature `[g, K]` of a layer that reads units, else None."""
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
        # Of a unit that a layer makes all features are its own; one that it reads differs.
        if (arranged == features[:, :, None]).all() and (features != features[:, :1]).any():
            return np.ascontiguousarray(features)
    return None


def is_even(reader: Consumer, units: Ids) -> bool:
    """Whether a reader reads all of some units, equally many features of each per group."""
    for own in reader.units:
        counts = np.bincount(np.searchsorted(units, own[np.isin(own, units)]), minlength=len(units))
        if not counts.all() or (counts != counts[0]).any():
            return False
    return True


def consumer_of(
    layer: LinearLayer, units: Ids, moments: Moments, unseen: Moments | None = None
) -> Consumer:
    """What a layer's samples say of the features that it reads.

    Args:
        layer: the layer; with a bias it makes up for the mean of what is lost.
        units: of its features, see `units_read`.
        moments: of its features.
        unseen: the same of other samples, to check on what the first ones promise.
    """
    if layer.bias_node is None:
        moments = moments.about_zero()
    weight = layer.matrix
    gram = moments.gram / moments.rows
    power = float(np.einsum("gkm,gkm->", weight, gram @ weight))
    energy = np.diagonal(gram, axis1=1, axis2=2).copy()
    inverse = None
    if weight.shape[1] <= MAX_FEATURES:
        # In proportion to each feature, so that one that never varies costs nothing.
        least = np.maximum(_LEAST_RIDGE * energy.mean(axis=1), np.finfo(np.float32).tiny)
        # With few rows features seem to stand in for each other that do not: what they have
        # in common is believed the less, the more there are of them.
        features = weight.shape[1]
        doubt = (features / (features + moments.rows)) ** 2
        gram *= 1 - doubt
        pull = (_RIDGE + doubt) * energy + least[:, None]
        gram += pull[:, :, None] * np.eye(features)
        inverse = np.linalg.inv(gram).astype(np.float32)
    return Consumer(
        layer=layer,
        units=units,
        inverse=inverse,
        energy=energy,
        mean=moments.mean_x,
        power=max(power, 1e-30),
        unseen=None if unseen is None or inverse is None else _about(unseen, moments.mean_x),
    )


def _about(moments: Moments, mean: Array64) -> NDArray[np.float32]:
    """Second moments about a given mean, per row."""
    shift = moments.mean_x - mean
    gram = moments.gram / moments.rows + shift[:, :, None] * shift[:, None, :]
    return gram.astype(np.float32)


def reconstruction_curve(units: Ids, readers: Sequence[Consumer]) -> DamageCurve:
    """The order in which interchangeable units go, and the error that this leaves.

    Args:
        units: of one group, read by every reader.
        readers: the layers that read them. Their errors are shares of their power, and
            add up.
    """
    order: list[int] = []
    damage = [0.0]
    for picked, costs, _ in _greedy(units, readers):
        damage += (damage[-1] + costs).tolist()
        order += picked.tolist()
    return DamageCurve(units[order], np.maximum.accumulate(np.array(damage)))


def energy_curve(units: NDArray[np.int64], readers: Sequence[Consumer]) -> DamageCurve:
    """The curve by what units add to their readers: mean square of the input times |w|^2.

    The criterion of Sun et al. 2023 (Wanda), summed over the features of a unit.
    """
    total = np.zeros(len(units))
    for reader in readers:
        energy = reader.energy * np.square(reader.layer.matrix).sum(axis=2)
        own = np.isin(reader.units, units)
        np.add.at(total, np.searchsorted(units, reader.units[own]), energy[own] / energy.sum())
    return curve_of(units, total)


def overconfidence(units: Ids, readers: Sequence[Consumer]) -> Array64:
    """By how much the damage on samples not seen exceeds that of a curve, float64[units + 1].

    With few samples features seem to stand in for each other that do not, the more so the
    more features there are: so the same choice is made with some samples and its damage
    measured on others. At least 1; ones without readers that have unseen samples.
    """
    gone, damage = 0, 0.0
    checked, factors = [0], [1.0]
    for picked, costs, losses in _greedy(units, readers):
        gone += len(picked)
        damage += float(costs[-1])
        if gone < len(units) * len(checked) / _CHECKS or damage <= 0:
            continue
        unseen = [loss.unseen_cost() for loss in losses]
        known = [cost for cost in unseen if cost is not None]
        if len(known) == len(unseen):
            checked.append(gone)
            factors.append(max(1.0, sum(known) / damage))
    factors[0] = factors[min(1, len(factors) - 1)]
    return np.interp(np.arange(len(units) + 1), checked, factors)


def _greedy(
    units: Ids, readers: Sequence[Consumer]
) -> Iterator[tuple[NDArray[np.intp], Array64, list[_Loss]]]:
    """Take units out, always those that cost least now: which, and their running cost."""
    losses = [_Loss(reader, units) for reader in readers]
    alive = np.arange(len(units))
    at_once = -(-len(units) // _ROUNDS)
    while len(alive):
        scores = np.sum([loss.scores(alive) for loss in losses], axis=0)
        least = np.argsort(scores, kind="stable")[:at_once]
        picked = alive[least]
        # Together they cost what they cost; apart, in the order of their own scores.
        cost = sum(loss.remove(picked) for loss in losses)
        shares = np.cumsum(scores[least]) / max(float(scores[least].sum()), 1e-300)
        yield picked, cost * shares, losses
        alive = np.delete(alive, least)


class _Loss:
    """The features of one reader that belong to the units of one group, as they go."""

    def __init__(self, reader: Consumer, units: Ids) -> None:
        weight = reader.layer.matrix
        self._power = reader.power
        groups = range(len(weight))
        own = [np.flatnonzero(np.isin(reader.units[g], units)) for g in groups]
        self._weight = [weight[g][own[g]] for g in groups]
        self._places = [_places(reader.units[g][own[g]], units) for g in groups]
        if reader.inverse is None:
            energies = [np.maximum(reader.energy[g][own[g]], 1e-30) for g in groups]
            self._inverse = [np.diag(1 / energy) for energy in energies]
        else:
            self._inverse = [
                reader.inverse[g][np.ix_(own[g], own[g])].astype(np.float64) for g in groups
            ]
        self._start = [weight.copy() for weight in self._weight]
        self._unseen = (
            None
            if reader.unseen is None
            else [reader.unseen[g][np.ix_(own[g], own[g])] for g in groups]
        )

    def scores(self, alive: NDArray[np.intp]) -> Array64:
        """What each unit would cost if it alone went now, as a share of the power."""
        total = np.zeros(len(alive))
        for weight, places, inverse in zip(self._weight, self._places, self._inverse, strict=True):
            at = places[alive]
            if not at.shape[1]:
                continue
            blocks = inverse[at[:, :, None], at[:, None, :]]
            rows = weight[at]
            total += np.einsum("usm,usm->u", rows, np.linalg.solve(blocks, rows))
        return total / self._power

    def unseen_cost(self) -> float | None:
        """What all that went costs on samples not seen, as a share of the power."""
        if self._unseen is None:
            return None
        cost = 0.0
        for weight, start, gram in zip(self._weight, self._start, self._unseen, strict=True):
            change = (weight - start).astype(np.float32)
            cost += float(np.einsum("km,km->", change, gram @ change, dtype=np.float64))
        return cost / self._power

    def remove(self, units: NDArray[np.intp]) -> float:
        """Take units out, adapt the others, and return what that cost."""
        cost = 0.0
        for index, (weight, places) in enumerate(zip(self._weight, self._places, strict=True)):
            gone = places[units].reshape(-1)
            inverse = self._inverse[index]
            if not len(gone):
                continue
            columns = inverse[:, gone]
            solved = np.linalg.solve(columns[gone], np.concatenate([weight[gone], columns.T], 1))
            cost += float((weight[gone] * solved[:, : weight.shape[1]]).sum())
            change = columns @ solved
            weight -= change[:, : weight.shape[1]]
            inverse -= change[:, weight.shape[1] :]
            # What is gone stays gone; a unit diagonal keeps later systems regular.
            weight[gone] = 0.0
            inverse[gone], inverse[:, gone] = 0.0, 0.0
            inverse[gone, gone] = 1.0
        return cost / self._power


def _places(features: Ids, units: Ids) -> NDArray[np.intp]:
    """Where each unit's features are, intp[units, features of one unit]."""
    order = np.argsort(features, kind="stable")
    return order.reshape(len(units), -1)
