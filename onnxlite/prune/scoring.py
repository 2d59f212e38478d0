"""Scoring: damage curves of all groups, at their consumers and at the outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import UnitGroup
from onnxlite.analysis.cost import cost
from onnxlite.calibrate.moments import Moments
from onnxlite.fidelity import ReferenceOutputs
from onnxlite.inputs import feed_size
from onnxlite.model import clone
from onnxlite.ops import Ids, value_lengths
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.prune.importance import DamageCurve, weight_curve
from onnxlite.prune.reconstruction import (
    Consumer,
    consumer_of,
    energy_curve,
    is_even,
    overconfidence,
    reconstruction_curve,
    units_read,
)
from onnxlite.prune.task import PruningTask
from onnxlite.records import Skipped
from onnxlite.repair import Repair, repair_ir
from onnxlite.repair.engine import FitOptions, input_moments
from onnxlite.runtime import Outputs, run_all
from onnxlite.samples import Samples

#: Local damage below which a probe would measure only rounding errors.
_MIN_DAMAGE = 1e-4
#: Bounds of damage at the outputs.
_LEAST_DAMAGE, _BROKEN = 1e-12, 1e6
#: Samples per probe; fewer if all runs together would take more than `_MAX_MACS`.
_MIN_SAMPLES, _MAX_SAMPLES, _MAX_MACS = 8, 128, 2.5e11
#: Up to this number of MACs in all runs, the model is repaired for every probe.
_REPAIRED_MACS = 2.5e10
#: The same for probes of whole branches, which mean little without repair.
_BRANCH_MACS = 1e11


@dataclass(frozen=True)
class GroupScores:
    """Damage curves of all groups, and the layers at which they were measured.

    Attributes:
        curves: curve of every group of the channel map; empty for groups that keep all units.
        consumers: for every group the layers that read it, with moments that exclude held-out
            samples; empty without samples.
        skipped: groups that the criterion cannot score, which keep all units.
    """

    curves: list[DamageCurve]
    consumers: list[list[Consumer]]
    skipped: tuple[Skipped, ...] = ()


def score_groups(task: PruningTask) -> GroupScores:
    """Score the units of all eligible groups, and check damage on held-out samples.

    With `"reconstruction"` and `"energy"` a group that no layer reads (the hidden state of an
    LSTM) is scored by its weights.
    """
    merged, fitted = _consumers(task) if task.measures_damage else ([], [])
    rng = np.random.default_rng(task.options.seed)
    curves: list[DamageCurve] = []
    consumers: list[list[Consumer]] = []
    skipped: list[Skipped] = []
    groups = task.channels.groups
    for index, group in enumerate(groups):
        task.context.progress("score units", index, len(groups))
        curve: DamageCurve | str = ""
        own: list[Consumer] = []
        if group.name in task.eligible:
            own = [consumer for consumer in fitted if is_even(consumer, group.units)]
            all_samples = [consumer for consumer in merged if is_even(consumer, group.units)]
            curve = _curve(task, group, all_samples, rng)
        if isinstance(curve, str):
            if curve:
                skipped.append(Skipped("score units", group.name, "no-score", curve))
            curve = DamageCurve(group.units[:0], np.zeros(1))
        elif task.importance == "reconstruction" and own:
            damage = curve.damage * overconfidence(group.units, own)
            curve = DamageCurve(curve.order, np.maximum.accumulate(damage))
        curves.append(curve)
        consumers.append(own)
    task.context.progress("score units", len(groups), len(groups))
    return GroupScores(curves, consumers, tuple(skipped))


def _curve(
    task: PruningTask, group: UnitGroup, consumers: Sequence[Consumer], rng: np.random.Generator
) -> DamageCurve | str:
    """Compute the curve of a group, or the reason why it has none."""
    if not task.measures_damage:
        return weight_curve(task.channels, group, task.importance, rng)
    if not consumers:
        return weight_curve(task.channels, group, "l2", rng)
    if task.importance == "energy":
        return energy_curve(group.units, consumers)
    return reconstruction_curve(group.units, consumers)


def _consumers(task: PruningTask) -> tuple[list[Consumer], list[Consumer]]:
    """Make consumers with the moments of all samples, and without held-out ones.

    Layers that share a weight are one consumer, with the moments of all.
    """
    assert task.fitted is not None
    fitting = FitOptions(repair=Repair(seed=task.options.seed), threads=task.context.threads)
    found = [(layer, units_read(layer, task.channels)) for layer in find_layers(task.model)[0]]
    reading = [(layer, units) for layer, units in found if units is not None]
    layers = [layer for layer, _ in reading]
    parts = [
        input_moments(task.model, layers, part, fitting, progress=task.context.progress)
        for part in (task.fitted, task.held_out)
        if part is not None
    ]
    merged: list[Consumer] = []
    fitted: list[Consumer] = []
    waiting = Counter(layer.weight for layer in layers)
    shared: dict[ir.Value, list[list[Moments]]] = {}
    for (layer, units), *moments in zip(reading, *parts, strict=True):
        known = [part for part in moments if part is not None]
        waiting[layer.weight] -= 1
        readers = shared.setdefault(layer.weight, [])
        if len(known) == len(parts):
            readers.append(known)
        if waiting[layer.weight] or not readers:
            continue
        known = [reduce(Moments.merge, part) for part in zip(*readers, strict=True)]
        readers.clear()
        merged.append(consumer_of(layer, units, reduce(Moments.merge, known)))
        if len(known) > 1:
            fitted.append(consumer_of(layer, units, *known))
    return merged, fitted or merged


def output_curves(
    task: PruningTask, scores: GroupScores, branches: Collection[int] = ()
) -> list[DamageCurve]:
    """Scale curves to damage at the outputs: squared error as a fraction of their variance.

    The error at the consumers of a group is local, and its effect on the outputs depends on
    the layers in between. A probe measures one factor per group: it removes some of its units
    temporarily and compares the outputs on held-out samples. A small model is repaired for
    each probe, as after pruning; in a large one only the consumers are adapted.

    Args:
        task: the task; its model is unchanged afterwards.
        scores: damage at the consumers. A group without consumers gets the median factor.
        branches: groups whose branches may be removed; their removal is probed as well.
    """
    assert task.target is not None
    probe = _Probe(task, scores)
    # If inputs and outputs keep one fraction, MACs are proportional to its square.
    fraction = 1 - task.target.fraction**0.5
    factors: list[float | None] = []
    whole: dict[int, float] = {}
    for index, curve in enumerate(scores.curves):
        task.context.progress("probe groups", index, len(scores.curves))
        count = _probed_count(curve, fraction)
        writable = [c for c in scores.consumers[index] if c.layer.owns_weight]
        if count < 1 or not writable:
            factors.append(None)
            continue
        damage = probe.damage(curve.order[:count], writable, repaired=probe.is_small)
        factors.append(damage / max(float(curve.damage[count]), 1e-12))
        if index in branches:
            few = len(branches) * probe.macs <= _BRANCH_MACS
            whole[index] = probe.damage(curve.order, writable, repaired=few)
    task.context.progress("probe groups", len(scores.curves), len(scores.curves))
    known = [factor for factor in factors if factor is not None]
    median = float(np.median(known)) if known else 1.0
    scaled = []
    for index, (curve, factor) in enumerate(zip(scores.curves, factors, strict=True)):
        at_outputs = curve.damage * (median if factor is None else factor)
        if index in whole:
            at_outputs = np.append(at_outputs[:-1], whole[index])
        scaled.append(DamageCurve(curve.order, at_outputs))
    return scaled


def _probed_count(curve: DamageCurve, fraction: float) -> int:
    """Number of units to remove for a probe: the expected one, or more to be measurable."""
    total = len(curve.order)
    count = max(1, round(fraction * total), int(np.searchsorted(curve.damage, _MIN_DAMAGE)))
    return min(count, total - 1) if total else 0


class _Probe:
    """Comparison of outputs on held-out samples, with and without some units.

    Attributes:
        macs: multiply-accumulates of the model on all samples of one probe.
        is_small: True if the model can be repaired for every probe.
    """

    def __init__(self, task: PruningTask, scores: GroupScores) -> None:
        assert task.fitted is not None
        self._task, model = task, task.model
        feed = next(iter(task.fitted))
        macs = cost(model, feeds=[feed]).macs or 0
        per_sample = macs / max(feed_size(feed, task.fitted.inputs), 1)
        runs = max(sum(map(bool, scores.consumers)) * per_sample, 1)
        count = int(min(max(_MAX_MACS / runs, _MIN_SAMPLES), _MAX_SAMPLES))
        self.macs = per_sample * count
        self.is_small = runs * count <= _REPAIRED_MACS
        self._fitted = Samples(task.fitted, task.fitted.inputs, limit=count)
        held_out = task.held_out or task.fitted
        self._feeds = list(Samples(held_out, task.fitted.inputs, limit=count))
        outputs = run_all(model, self._feeds, threads=task.context.threads)
        self._expected = ReferenceOutputs(
            outputs, centered=True, varying=bool(value_lengths(model))
        )
        # Layers without a bias get one, so the model of the channel map is copied.
        self._copy = clone(model)
        self._twins = {layer.node.name: layer for layer in find_layers(self._copy)[0]}

    def damage(self, units: Ids, consumers: Sequence[Consumer], *, repaired: bool) -> float:
        """Measure the error of the outputs without some units.

        Args:
            units: units to remove for the probe.
            consumers: layers that read them, adapted if the model is not repaired.
            repaired: True to repair the whole model.
        """
        threads = self._task.context.threads
        if repaired:
            smaller = self._task.without(units)
            fitting = FitOptions(passes=0, threads=threads)
            candidate, _ = repair_ir(self._task.model, smaller, self._fitted, fitting)
            return output_error(self._expected, run_all(candidate, self._feeds, threads=threads))
        with _adapted(consumers, self._twins, units):
            return output_error(self._expected, run_all(self._copy, self._feeds, threads=threads))


@contextmanager
def _adapted(
    consumers: Sequence[Consumer], twins: Mapping[str | None, LinearLayer], units: Ids
) -> Iterator[None]:
    """Adapt copies of the consumers, found by node name, to the loss of some units."""
    layers = [twins[consumer.layer.node.name] for consumer in consumers]
    before = [(layer.matrix, layer.bias) for layer in layers]
    adapted = [consumer.without(units) for consumer in consumers]
    try:
        for layer, (weight, bias) in zip(layers, adapted, strict=True):
            layer.write(weight, bias)
        yield
    finally:
        for layer, (weight, bias) in zip(layers, before, strict=True):
            layer.write(weight, bias)


def output_error(expected: ReferenceOutputs, got: Sequence[Outputs]) -> float:
    """Squared error over variance, averaged over the parts of all float outputs.

    Args:
        expected: with `centered`.
        got: outputs of the probed model on each feed.

    Returns:
        1e-12, below which there is rounding only, to 1e6, which stands for NaN and infinity.
    """
    return float(np.clip(expected.errors(got).noise_ratio, _LEAST_DAMAGE, _BROKEN))
