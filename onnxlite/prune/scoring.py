"""The curve of every group, by whatever importance was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, UnitGroup, channel_map
from onnxlite.analysis.cost import cost
from onnxlite.calibrate.moments import Moments
from onnxlite.fidelity import relative_error
from onnxlite.model import clone
from onnxlite.ops import Ids
from onnxlite.ops.linear_layer import LinearLayer, find_layers
from onnxlite.prune.importance import (
    FROM_SAMPLES,
    DamageCurve,
    weight_curve,
)
from onnxlite.prune.options import Importance, ImportanceFunction
from onnxlite.prune.reconstruction import (
    Consumer,
    consumer_of,
    energy_curve,
    is_even,
    overconfidence,
    reconstruction_curve,
    units_read,
)
from onnxlite.prune.removal import remove_units
from onnxlite.records import Progress, Skipped, no_progress
from onnxlite.repair import repair_ir
from onnxlite.repair.engine import FitOptions, input_moments
from onnxlite.runtime import Outputs, run_all
from onnxlite.samples import Samples, feed_size, input_specs

_WHAT = "score units"


@dataclass(frozen=True)
class GroupScores:
    """What is known of the units of a model, group by group.

    Attributes:
        curves: of every group of the channel map; empty for groups that stay.
        readers: of every group the layers that read it, where samples were looked at; as
            those samples show them that no probe sees.
        skipped: groups that could not be scored as asked, and stay.
    """

    curves: list[DamageCurve]
    readers: list[list[Consumer]]
    skipped: tuple[Skipped, ...] = ()


def score(
    model: ir.Model,
    channels: ChannelMap,
    free: Set[str],
    importance: Importance | ImportanceFunction,
    samples: Samples | None,
    unseen: Samples | None = None,
    *,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> GroupScores:
    """Score the units of the groups named in `free`; damage is checked on `unseen` samples.

    With `"reconstruction"` and `"energy"` a group that no layer reads (the hidden state of
    an LSTM) is scored by its weights.
    """
    readers: list[Consumer] = []
    seen_readers: list[Consumer] = []
    if importance in FROM_SAMPLES:
        assert samples is not None
        readers, seen_readers = _readers(model, channels, samples, unseen, seed, threads, progress)
    rng = np.random.default_rng(seed)
    curves: list[DamageCurve] = []
    own_readers: list[list[Consumer]] = []
    skipped: list[Skipped] = []
    for index, group in enumerate(channels.groups):
        progress("score units", index, len(channels.groups))
        own, own_seen = (
            [reader for reader in some if is_even(reader, group.units)]
            if group.name in free
            else []
            for some in (readers, seen_readers)
        )
        curve = _curve(channels, group, own, importance, rng) if group.name in free else ""
        if isinstance(curve, str):
            if curve:
                skipped.append(Skipped(_WHAT, group.name, "no-score", curve))
            curve = DamageCurve(group.units[:0], np.zeros(1))
        elif importance == "reconstruction" and own_seen:
            damage = curve.damage * overconfidence(group.units, own_seen)
            curve = DamageCurve(curve.order, np.maximum.accumulate(damage))
        curves.append(curve)
        own_readers.append(own_seen)
    progress("score units", len(channels.groups), len(channels.groups))
    return GroupScores(curves, own_readers, tuple(skipped))


def _curve(
    channels: ChannelMap,
    group: UnitGroup,
    readers: Sequence[Consumer],
    importance: Importance | ImportanceFunction,
    rng: np.random.Generator,
) -> DamageCurve | str:
    if importance not in FROM_SAMPLES:
        return weight_curve(channels, group, importance, rng)
    if not readers:
        return weight_curve(channels, group, "l2", rng)
    if importance == "energy":
        return energy_curve(group.units, readers)
    return reconstruction_curve(group.units, readers)


def _readers(
    model: ir.Model,
    channels: ChannelMap,
    samples: Samples,
    unseen: Samples | None,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> tuple[list[Consumer], list[Consumer]]:
    """The layers that read units, by what all samples say and by what those of `samples` say."""
    layers, _ = find_layers(model)
    found = [(layer, units_read(layer, channels)) for layer in layers]
    reading = [(layer, units) for layer, units in found if units is not None]
    wanted = [layer for layer, _ in reading]
    parts = [
        input_moments(
            model, wanted, part, FitOptions(seed=seed, threads=threads), progress=progress
        )
        for part in (samples, unseen)
        if part is not None
    ]
    all_readers: list[Consumer] = []
    seen_readers: list[Consumer] = []
    for (layer, units), *moments in zip(reading, *parts, strict=True):
        known = [part for part in moments if part is not None]
        if len(known) < len(parts):
            continue
        all_readers.append(consumer_of(layer, units, reduce(Moments.merge, known)))
        if len(known) > 1:
            seen_readers.append(consumer_of(layer, units, *known))
    return all_readers, seen_readers or all_readers


#: Local damage below which a probe would measure rounding.
_LEAST_DAMAGE = 1e-4
#: Samples to probe with; fewer where all runs together would take more than so many MACs.
_SAMPLES, _LEAST_SAMPLES, _MACS = 128, 8, 2.5e11
#: Up to so many MACs in all runs, the rest of the model is repaired for every probe.
_REPAIRED_MACS = 2.5e10
#: The same for the probes of branches that end: without repair those tell little.
_ENDED_MACS = 1e11


def output_curves(
    model: ir.Model,
    curves: Sequence[DamageCurve],
    readers: Sequence[Sequence[Consumer]],
    samples: Samples,
    checks: Samples,
    *,
    share: float,
    ends: Set[int] = frozenset(),
    threads: int | None = None,
    progress: Progress = no_progress,
) -> list[DamageCurve]:
    """The curves with their damage as a share of the outputs' variance.

    Args:
        model: unchanged afterwards.
        curves: of every group, with the damage to its readers.
        readers: of every group; one without any keeps its curve, times the median of the
            other groups' factors.
        samples: to repair on, where the rest of the model is repaired.
        checks: to compare the outputs on; samples that the curves have not seen, so that a
            group whose readers only seem to do without its units is found out.
        share: of a group's units to take out, about as many as will go.
        ends: groups that may go altogether, with their branch: that is probed, too.
        threads: of ONNX Runtime; None takes all cores.
        progress: called as groups are done.
    """
    feed = next(iter(samples))
    macs = (cost(model, feeds=[feed]).macs or 0) / max(feed_size(feed, samples.inputs), 1)
    runs = max(sum(map(bool, readers)) * macs, 1)
    count = int(min(max(_MACS / runs, _LEAST_SAMPLES), _SAMPLES))
    some = Samples(samples, input_specs(model), limit=count)
    feeds = list(Samples(checks, input_specs(model), limit=count))
    expected = run_all(model, feeds, threads=threads)
    # Layers without a bias get one: not in the model that the channel map is of.
    copy = clone(model)
    twins = {layer.node.name: layer for layer in find_layers(copy)[0]}

    def repaired(units: Ids) -> list[Outputs]:
        return run_all(_repaired(model, units, some, threads), feeds, threads=threads)

    def adapted(readers: Sequence[Consumer], units: Ids) -> list[Outputs]:
        with _without(readers, twins, units):
            return run_all(copy, feeds, threads=threads)

    small = runs * count <= _REPAIRED_MACS
    few = len(ends) * macs * count <= _ENDED_MACS
    factors: list[float | None] = []
    whole: dict[int, float] = {}
    for index, (curve, own) in enumerate(zip(curves, readers, strict=True)):
        progress("probe groups", index, len(curves))
        taken = _probed_count(curve, share)
        writable = [reader for reader in own if reader.layer.owns_weight]
        if taken < 1 or not writable:
            factors.append(None)
            continue
        units = curve.order[:taken]
        damage = distance(expected, repaired(units) if small else adapted(writable, units))
        factors.append(damage / max(float(curve.damage[taken]), 1e-12))
        if index in ends:
            got = repaired(curve.order) if few else adapted(writable, curve.order)
            whole[index] = distance(expected, got)
    progress("probe groups", len(curves), len(curves))
    known = [factor for factor in factors if factor is not None]
    middle = float(np.median(known)) if known else 1.0
    scaled = [
        DamageCurve(curve.order, curve.damage * (middle if factor is None else factor))
        for curve, factor in zip(curves, factors, strict=True)
    ]
    return [
        _ending(curve, whole[index]) if index in whole else curve
        for index, curve in enumerate(scaled)
    ]


def _ending(curve: DamageCurve, damage: float) -> DamageCurve:
    """A curve of which the end was measured."""
    return DamageCurve(curve.order, np.append(curve.damage[:-1], damage))


def _repaired(model: ir.Model, units: Ids, samples: Samples, threads: int | None) -> ir.Model:
    smaller = clone(model)
    remove_units(smaller, channel_map(smaller, feeds=[next(iter(samples))]), units.tolist())
    return repair_ir(model, smaller, samples, FitOptions(passes=0, threads=threads))[0]


def _probed_count(curve: DamageCurve, share: float) -> int:
    total = len(curve.order)
    count = max(1, round(share * total), int(np.searchsorted(curve.damage, _LEAST_DAMAGE)))
    return min(count, total - 1) if total else 0


@contextmanager
def _without(
    readers: Sequence[Consumer], twins: Mapping[str | None, LinearLayer], units: Ids
) -> Iterator[None]:
    """Within the context the twins of the readers, by their names, do without `units`."""
    layers = [twins[reader.layer.node.name] for reader in readers]
    before = [(layer.matrix, layer.bias) for layer in layers]
    adapted = [reader.without(units) for reader in readers]
    try:
        for layer, (weight, bias) in zip(layers, adapted, strict=True):
            layer.write(weight, bias)
        yield
    finally:
        for layer, (weight, bias) in zip(layers, before, strict=True):
            layer.write(weight, bias)


def distance(expected: Sequence[Outputs], got: Sequence[Outputs]) -> float:
    """Squared error over the variance, the mean of all float outputs; larger than 0."""
    return max(relative_error(expected, got, centered=True), 1e-12)
