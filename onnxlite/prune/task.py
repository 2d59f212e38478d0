"""Pruning task: a model, its channel units, and the options.

Every phase of channel pruning reads the task; only removal and repair change its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.analysis.shapes import generated_feed, infer_shapes
from onnxlite.errors import OptionError
from onnxlite.holdout import EveryKth, split_stream
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops import Ids
from onnxlite.prune.eligibility import (
    allowed_counts,
    channel_block,
    check_options,
    eligible_groups,
    removable_branches,
)
from onnxlite.prune.importance import FROM_SAMPLES, DamageCurve
from onnxlite.prune.options import Importance, ImportanceFunction, PruneChannels
from onnxlite.prune.removal import remove_units
from onnxlite.records import HoldOut
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext

#: Feeds that damage is checked on are held out of scoring.
_HOLD_OUT = EveryKth(4)
_RESOURCES: tuple[Literal["macs", "params", "latency"], ...] = ("macs", "params", "latency")

#: Number of removed units of every group, in the order of the channel map.
RemovedCounts = tuple[int, ...]


class Target(NamedTuple):
    """Target: a resource and the fraction of it to keep."""

    resource: Literal["macs", "params", "latency"]
    fraction: float


@dataclass(frozen=True, kw_only=True)
class PruningTask:
    """A model to prune, its units, options and samples.

    Attributes:
        model: normalized, with shapes; the phases that remove units rewrite it.
        reference: copy of the model before pruning.
        channels: units of `model`.
        options: options of the step.
        context: threads and progress.
        samples: all samples; None without samples.
        fitted: samples to score units on.
        held_out: samples to check damage on; None if there are too few.
        eligible: names of the groups that may lose units.
    """

    model: ir.Model
    reference: ir.Model
    channels: ChannelMap
    options: PruneChannels
    context: StepContext
    samples: Samples | None
    fitted: Samples | None
    held_out: Samples | None
    eligible: frozenset[str]

    @property
    def importance(self) -> Importance | ImportanceFunction:
        """Criterion; `"auto"` is `"reconstruction"` with samples and `"l2"` without."""
        if self.options.importance != "auto":
            return self.options.importance
        return "l2" if self.samples is None else "reconstruction"

    @property
    def measures_damage(self) -> bool:
        """True if the damage at the outputs is measured on samples."""
        return self.samples is not None and self.importance in FROM_SAMPLES

    @property
    def hold_out(self) -> HoldOut | None:
        """Record of the split, for the report; None if no damage is measured."""
        if not self.measures_damage:
            return None
        feeds = sum(1 for _ in self.held_out or ())
        return HoldOut(rule=str(_HOLD_OUT), feeds=feeds, shared=self.held_out is None)

    @property
    def target(self) -> Target | None:
        """Resource to reduce; None if fractions or widths of groups are given."""
        for resource in _RESOURCES:
            if (fraction := getattr(self.options, resource)) is not None:
                return Target(resource, fraction)
        return None

    @cached_property
    def feed(self) -> Feed:
        """One sample, or a generated input if there are none.

        Raises:
            ExecutionError: the model accepts no generated input.
        """
        if self.samples is None:
            return generated_feed(self.model)
        return one_sample(self.samples)

    @cached_property
    def branches(self) -> Mapping[int, Branch]:
        """Branches that may be removed, by their group."""
        if not self.options.branches:
            return {}
        return removable_branches(self.model, self.channels, self.eligible, self.options.exclude)

    def allowed_counts(self, curves: Sequence[DamageCurve]) -> list[tuple[int, ...]]:
        """Numbers of units that every group may keep, descending."""
        block, minimum = channel_block(self.options.round_to), self.options.min_channels
        return [
            allowed_counts(group, block=block, minimum=minimum)
            if len(curve.order)
            else (len(group.units),)
            for group, curve in zip(self.channels.groups, curves, strict=True)
        ]

    def without(self, units: Ids) -> ir.Model:
        """Return a copy of the model without some units."""
        smaller = clone(self.model)
        remove_units(smaller, channel_map(smaller, feeds=[self.feed]), units.tolist())
        return smaller


def analyse(
    model: ir.Model, samples: SamplesLike | None, options: PruneChannels, context: StepContext
) -> PruningTask:
    """Rewrite in place: normalize a model; then derive its units and split the samples.

    Raises:
        OptionError: an option does not fit the model or the samples.
        SamplesError: the samples do not fit the model.
    """
    if options.repair is True and samples is None:
        raise OptionError("repair needs samples: give a few hundred unlabelled inputs")
    normalize(model)
    infer_shapes(model)
    inputs = input_specs(model)
    stream = None if samples is None else Samples(samples, inputs, limit=options.limit)
    feeds = None if stream is None else [one_sample(stream)]
    channels = channel_map(model, feeds=feeds)
    check_options(channels, options, samples=stream is not None)
    fitted, held_out = (None, None) if stream is None else split_stream(stream, _HOLD_OUT)
    return PruningTask(
        model=model,
        reference=clone(model),
        channels=channels,
        options=options,
        context=context,
        samples=stream,
        fitted=fitted,
        held_out=held_out,
        eligible=eligible_groups(channels, options.exclude),
    )


def one_sample(samples: Samples) -> Feed:
    """Return the first sample; the first batch if its size is fixed."""
    feed = next(iter(samples))
    return trim(feed, samples.inputs, 1) or feed


def chosen_units(curves: Sequence[DamageCurve], removed: RemovedCounts) -> Ids:
    """Return the ids of the removed units, from their number in every group."""
    parts = [curve.order[:count] for curve, count in zip(curves, removed, strict=True)]
    return np.concatenate([*parts, np.zeros(0, np.int64)])
