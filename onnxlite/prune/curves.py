"""The curve of every group, by whatever importance was asked for."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, UnitGroup
from onnxlite.calibrate.moments import Moments
from onnxlite.prune.curve import Curve
from onnxlite.prune.importance import (
    FROM_SAMPLES,
    Importance,
    ImportanceFunction,
    energy_curve,
    weight_curve,
)
from onnxlite.prune.reconstruct import (
    Reader,
    is_even,
    overconfidence,
    reader_of,
    reconstruction_curve,
    units_read,
)
from onnxlite.records import Declined, Progress
from onnxlite.repair.input_moments import input_moments
from onnxlite.repair.layers import find_layers
from onnxlite.samples import Samples

_WHAT = "score units"


@dataclass(frozen=True)
class Scored:
    """What is known of the units of a model, group by group.

    Attributes:
        curves: of every group of the channel map; empty for groups that stay.
        readers: of every group the layers that read it, where samples were looked at; as
            those samples show them that no probe sees.
        declined: groups that could not be scored as asked, and stay.
    """

    curves: list[Curve]
    readers: list[list[Reader]]
    declined: tuple[Declined, ...] = ()


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
) -> Scored:
    """Score the units of the groups named in `free`; damage is checked on `unseen` samples.

    With `"reconstruction"` and `"energy"` a group that no layer reads (the hidden state of
    an LSTM) is scored by its weights.
    """
    readers: list[Reader] = []
    seen_readers: list[Reader] = []
    if importance in FROM_SAMPLES:
        assert samples is not None
        readers, seen_readers = _readers(model, channels, samples, unseen, seed, threads, progress)
    rng = np.random.default_rng(seed)
    curves: list[Curve] = []
    own_readers: list[list[Reader]] = []
    declined: list[Declined] = []
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
                declined.append(Declined(_WHAT, group.name, curve))
            curve = Curve(group.units[:0], np.zeros(1))
        elif importance == "reconstruction" and own_seen:
            damage = curve.damage * overconfidence(group.units, own_seen)
            curve = Curve(curve.order, np.maximum.accumulate(damage))
        curves.append(curve)
        own_readers.append(own_seen)
    progress("score units", len(channels.groups), len(channels.groups))
    return Scored(curves, own_readers, tuple(declined))


def _curve(
    channels: ChannelMap,
    group: UnitGroup,
    readers: Sequence[Reader],
    importance: Importance | ImportanceFunction,
    rng: np.random.Generator,
) -> Curve | str:
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
) -> tuple[list[Reader], list[Reader]]:
    """The layers that read units, by what all samples say and by what those of `samples` say."""
    layers, _ = find_layers(model)
    found = [(layer, units_read(layer, channels)) for layer in layers]
    reading = [(layer, units) for layer, units in found if units is not None]
    wanted = [layer for layer, _ in reading]
    parts = [
        input_moments(model, wanted, part, seed=seed, threads=threads, progress=progress)
        for part in (samples, unseen)
        if part is not None
    ]
    all_readers: list[Reader] = []
    seen_readers: list[Reader] = []
    for (layer, units), *moments in zip(reading, *parts, strict=True):
        known = [part for part in moments if part is not None]
        if len(known) < len(parts):
            continue
        all_readers.append(reader_of(layer, units, reduce(Moments.merge, known)))
        if len(known) > 1:
            seen_readers.append(reader_of(layer, units, *known))
    return all_readers, seen_readers or all_readers
