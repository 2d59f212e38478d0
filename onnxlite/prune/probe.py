"""How much of a group's damage arrives at the outputs: measured, one short run per group.

The error that the readers of a group are left with is local; what it does to the outputs
depends on everything in between. So of every group some units are taken out for a moment
and the outputs compared: one factor per group. In a small model what is left is repaired
before that, as it will be in the end; in a large one only the readers are adapted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.cost import cost
from onnxlite.model import clone
from onnxlite.ops import Ids
from onnxlite.prune.channels import remove_units
from onnxlite.prune.curve import Curve
from onnxlite.prune.reconstruct import Reader
from onnxlite.records import Progress, silent
from onnxlite.repair import repair_ir
from onnxlite.repair.layers import Layer, find_layers
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Feed, Samples, feed_size, input_specs

#: Local damage below which a probe would measure rounding.
_LEAST_DAMAGE = 1e-4
#: Samples to probe with; fewer where all runs together would take more than so many MACs.
_SAMPLES, _LEAST_SAMPLES, _MACS = 128, 8, 2.5e11
#: Up to so many MACs in all runs, the rest of the model is repaired for every probe.
_REPAIRED_MACS = 2.5e10
#: The same for the probes of branches that end: without repair those tell little.
_ENDED_MACS = 1e11


def probed_curves(
    model: ir.Model,
    curves: Sequence[Curve],
    readers: Sequence[Sequence[Reader]],
    samples: Samples,
    checks: Samples,
    *,
    share: float,
    ends: Set[int] = frozenset(),
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Curve]:
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
    expected = run_feeds(model, feeds, threads)
    # Layers without a bias get one: not in the model that the channel map is of.
    copy = clone(model)
    twins = {layer.node.name: layer for layer in find_layers(copy)[0]}

    def repaired(units: Ids) -> list[Outputs]:
        return run_feeds(_repaired(model, units, some, threads), feeds, threads)

    def adapted(readers: Sequence[Reader], units: Ids) -> list[Outputs]:
        with _without(readers, twins, units):
            return run_feeds(copy, feeds, threads)

    small = runs * count <= _REPAIRED_MACS
    few = len(ends) * macs * count <= _ENDED_MACS
    factors: list[float | None] = []
    whole: dict[int, float] = {}
    for index, (curve, own) in enumerate(zip(curves, readers, strict=True)):
        progress("probe groups", index, len(curves))
        taken = _probed_count(curve, share)
        writable = [reader for reader in own if reader.layer.weight_free]
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
        Curve(curve.order, curve.damage * (middle if factor is None else factor))
        for curve, factor in zip(curves, factors, strict=True)
    ]
    return [
        _ending(curve, whole[index]) if index in whole else curve
        for index, curve in enumerate(scaled)
    ]


def _ending(curve: Curve, damage: float) -> Curve:
    """A curve of which the end was measured."""
    return Curve(curve.order, np.append(curve.damage[:-1], damage))


def _repaired(model: ir.Model, units: Ids, samples: Samples, threads: int | None) -> ir.Model:
    smaller = clone(model)
    remove_units(smaller, channel_map(smaller, feeds=[next(iter(samples))]), units.tolist())
    return repair_ir(smaller, model, samples, passes=0, threads=threads)[0]


def _probed_count(curve: Curve, share: float) -> int:
    total = len(curve.order)
    count = max(1, round(share * total), int(np.searchsorted(curve.damage, _LEAST_DAMAGE)))
    return min(count, total - 1) if total else 0


@contextmanager
def _without(
    readers: Sequence[Reader], twins: Mapping[str | None, Layer], units: Ids
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


def run_feeds(model: ir.Model, feeds: Sequence[Feed], threads: int | None) -> list[Outputs]:
    """The outputs of a model for each of some feeds."""
    session = Session(model, threads=threads)
    return [session.run(feed) for feed in feeds]


def distance(expected: Sequence[Outputs], got: Sequence[Outputs]) -> float:
    """Squared error over the variance, the mean of all float outputs; larger than 0."""
    shares = []
    for name in expected[0]:
        want = [np.asarray(outputs[name]) for outputs in expected]
        if want[0].dtype.kind != "f":
            continue
        noise = sum(
            float(np.square(w.astype(np.float64) - o[name]).sum())
            for w, o in zip(want, got, strict=True)
        )
        count = sum(w.size for w in want)
        mean = sum(float(w.sum(dtype=np.float64)) for w in want) / max(count, 1)
        power = sum(float(np.square(w.astype(np.float64) - mean).sum()) for w in want)
        if power > 0 and np.isfinite(noise):
            shares.append(noise / power)
    return max(float(np.mean(shares)), 1e-12) if shares else 1e-12
