"""The step that makes a model's layers smaller: score, choose, remove, verify, repair."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.analysis.shapes import generated_feed, infer_shapes
from onnxlite.errors import ExecutionError, OptionError, VerificationError
from onnxlite.holdout import EveryKth, split_stream
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops import Ids
from onnxlite.prune.block_removal import select_blocks
from onnxlite.prune.cost_model import latency_ratio
from onnxlite.prune.decision_cache import DecisionCache
from onnxlite.prune.eligibility import (
    allowed_counts,
    channel_block,
    check_options,
    count_to_keep,
    eligible_groups,
    removable_branches,
    removed_by_widths,
)
from onnxlite.prune.importance import FROM_SAMPLES, DamageCurve
from onnxlite.prune.options import PruneChannels
from onnxlite.prune.removal import remove_units, zero_mask_units
from onnxlite.prune.report import (
    STEP,
    ended,
    layer_rows,
    pinned,
    share_left,
    short_of,
    summary,
    weight_shapes,
)
from onnxlite.prune.scoring import GroupScores, distance, output_curves, score
from onnxlite.prune.target_search import Goal, Removed, Selection, TargetSearch
from onnxlite.records import Progress, Skipped, StepReport
from onnxlite.repair import repair_ir
from onnxlite.repair.engine import FitOptions
from onnxlite.runtime import check_loads, run_all
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs, trim
from onnxlite.step import StepContext

#: Pruned and zeroed in place differ by rounding: relative to the largest number.
_TOLERANCE = 1e-3
#: One feed of so many is kept from scoring, to probe with.
_HOLD_OUT = EveryKth(4)
#: Samples to repair and to judge a choice of branches on, at most.
_TRIED = 512
#: Seconds to time one choice in, when latency is the goal.
_TIMING_S = 1.0

_NO_BRANCHES: Mapping[int, Branch] = MappingProxyType({})


def prune_channels_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: PruneChannels,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Remove units from `model`, which the step owns; see `onnxlite.prune_channels`."""
    start = time.perf_counter()
    goal = Goal(**{name: getattr(options, name) for name in Goal.__struct_fields__})
    threads, progress = context.threads, context.progress
    remove, widths, importance = options.remove, options.widths, options.importance
    if options.repair is True and samples is None:
        raise OptionError("repair needs samples: a few hundred unlabelled inputs")
    normalize(model)
    infer_shapes(model)
    stream = None if samples is None else Samples(samples, input_specs(model))
    reference = clone(model)
    channels = channel_map(model, feeds=None if stream is None else [_one(model, stream)])
    check_options(channels, options, samples=stream is not None)
    if importance == "auto":
        importance = "l2" if stream is None else "reconstruction"
    free = eligible_groups(channels, options.exclude)
    seen, unseen = (None, None) if stream is None else split_stream(stream, _HOLD_OUT)
    scored = score(
        model,
        channels,
        free,
        importance,
        seen,
        unseen,
        seed=options.seed,
        threads=threads,
        progress=progress,
    )
    block, minimum = channel_block(options.round_to), options.min_channels
    reached = None
    if widths is not None:
        may_end: Mapping[int, Branch] = {}
        if options.branches:
            may_end = removable_branches(model, channels, free, options.exclude)
        removed = removed_by_widths(channels, free, may_end.keys(), widths)
    elif goal.kept is None:
        assert remove is not None
        removed = _by_fraction(channels, scored.curves, remove, block, minimum)
    else:
        curves, ends = scored.curves, _NO_BRANCHES
        if seen is not None and importance in FROM_SAMPLES:
            if options.branches and options.repair:
                ends = removable_branches(model, channels, free, options.exclude)
            curves = _probed(model, scored, seen, unseen or seen, goal, ends, threads, progress)
        reached = _reach(
            model, channels, curves, goal, block, minimum, ends, stream, threads, progress
        )
        removed = reached.removed
    chosen = {
        group.name: curve.order[:count]
        for group, curve, count in zip(channels.groups, scored.curves, removed, strict=True)
        if count
    }
    before = weight_shapes(model)
    units = np.concatenate([*chosen.values(), np.zeros(0, np.int64)])
    skipped = [*scored.skipped, *pinned(channels)]
    if len(units):
        remove_units(model, channels, units.tolist())
        skipped += _verify(model, reference, units, stream)
    rows = layer_rows(before, weight_shapes(model))
    fit = None
    if stream is not None and len(units) and options.repair:
        model, fit = repair_ir(
            reference,
            model,
            stream,
            FitOptions(seed=options.seed, threads=threads),
            progress=progress,
        )
    if reached is not None and not reached.complete:
        skipped.insert(0, short_of(goal, reached, channels, free))
    return model, StepReport(
        step=STEP,
        changed=len(units) > 0,
        summary=summary(channels, free, chosen, before, weight_shapes(model))
        + (f"; {share_left(goal, reached)}" if reached is not None and len(units) else "")
        + (f"; repair: {fit.summary}" if fit is not None else ""),
        changes=(
            {
                "units-removed": len(units),
                "groups": len(chosen),
                **ended(channels, removed),
                **(fit.changes if fit else {}),
            }
            if chosen
            else {}
        ),
        skipped=(*skipped, *(fit.skipped if fit else ())),
        layers=rows,
        resolved_options={} if goal.latency is None else _resolved_options(channels, removed),
        seconds=time.perf_counter() - start,
    )


def _resolved_options(channels: ChannelMap, removed: Removed) -> dict[str, Any]:
    """The options that choose as many units of every group, without measuring times."""
    pairs = zip(channels.groups, removed, strict=True)
    return {"latency": None, "widths": {g.name: len(g.units) - n for g, n in pairs if n}}


def _one(model: ir.Model, samples: Samples) -> Feed:
    """The first sample alone, where the batch axis is dynamic."""
    feed = next(iter(samples))
    return trim(feed, input_specs(model), 1) or feed


def _by_fraction(
    channels: ChannelMap,
    curves: Sequence[DamageCurve],
    remove: float | Mapping[str, float],
    block: int,
    minimum: int,
) -> Removed:
    removed = []
    for group, curve in zip(channels.groups, curves, strict=True):
        share = remove.get(group.name, 0.0) if isinstance(remove, Mapping) else remove
        kept = count_to_keep(group, share, block=block, minimum=minimum)
        removed.append(len(group.units) - kept if len(curve.order) and share else 0)
    return tuple(removed)


def _probed(
    model: ir.Model,
    scored: GroupScores,
    samples: Samples,
    checks: Samples,
    goal: Goal,
    ends: Mapping[int, Branch],
    threads: int | None,
    progress: Progress,
) -> list[DamageCurve]:
    assert goal.kept is not None
    # Where both sides of a layer shrink alike, its work is the square of what they keep.
    share = 1 - goal.kept[1] ** 0.5
    return output_curves(
        model,
        scored.curves,
        scored.readers,
        samples,
        checks,
        share=share,
        ends=ends.keys(),
        threads=threads,
        progress=progress,
    )


def _reach(
    model: ir.Model,
    channels: ChannelMap,
    curves: Sequence[DamageCurve],
    goal: Goal,
    block: int,
    minimum: int,
    ends: Mapping[int, Branch],
    samples: Samples | None,
    threads: int | None,
    progress: Progress,
) -> Selection:
    counts = [
        allowed_counts(group, block=block, minimum=minimum)
        if len(curve.order)
        else (len(group.units),)
        for group, curve in zip(channels.groups, curves, strict=True)
    ]
    feed = generated_feed(model) if samples is None else _one(model, samples)
    one = 1 if threads is None else threads
    choices = None
    if goal.latency is not None:
        details = (goal.latency, sorted(ends), one, samples is not None)
        choices = DecisionCache(model, curves, counts, feed, details)
        if (known := choices.known()) is not None:
            return known

    def without(removed: Removed) -> ir.Model:
        candidate = clone(model)
        units = [c.order[:n] for c, n in zip(curves, removed, strict=True)]
        remove_units(
            candidate, channel_map(candidate, feeds=[feed]), np.concatenate(units).tolist()
        )
        return candidate

    def measure(removed: Removed) -> float:
        return latency_ratio(model, without(removed), feed, threads=one, budget_s=_TIMING_S)

    chooser = TargetSearch(
        model,
        channels,
        curves,
        counts,
        goal,
        feed=feed,
        measure=measure,
        branches=ends.values(),
        threads=one,
        progress=progress,
    )
    if not ends or samples is None:
        reached = chooser.reached()
    else:
        seen, unseen = split_stream(samples, _HOLD_OUT)
        checks = list(Samples(unseen or seen, seen.inputs, limit=_TRIED))
        expected = run_all(model, checks, threads=threads)

        def trial(removed: Removed) -> float:
            candidate = repair_ir(
                model,
                without(removed),
                seen,
                FitOptions(limit=_TRIED, threads=threads),
                progress=progress,
            )[0]
            return distance(expected, run_all(candidate, checks, threads=threads))

        reached = select_blocks(chooser, ends, trial)
    if choices is not None:
        choices.keep(reached)
    return reached


def _verify(
    model: ir.Model, reference: ir.Model, units: Ids, samples: Samples | None
) -> list[Skipped]:
    """Compare with the reference, the same units silenced in place, on one feed.

    Raises:
        VerificationError: they differ.
        ExecutionError: ONNX Runtime refuses the smaller model.
    """
    check_loads(model)
    zeroed = clone(reference)
    try:
        feed = generated_feed(zeroed) if samples is None else _one(zeroed, samples)
    except ExecutionError as error:
        return [Skipped("verify", "", "not-runnable", f"no input is known to run it on: {error}")]
    (original,) = run_all(zeroed, [feed])
    zero_mask_units(zeroed, channel_map(zeroed, feeds=[feed]), units.tolist())
    (expected,), (got,) = run_all(zeroed, [feed]), run_all(model, [feed])
    for name, array in expected.items():
        if array.shape != got[name].shape:
            raise VerificationError(
                f"output {name!r} is {list(got[name].shape)} after pruning and was "
                f"{list(array.shape)}: protect the layers before it and report this"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            continue
        # Without repair an output may have collapsed: its rounding is that of what it was.
        scale = max(float(np.abs(side).max(initial=1e-3)) for side in (array, original[name]))
        if float(np.abs(array - got[name]).max(initial=0)) > _TOLERANCE * scale:
            raise VerificationError(
                f"output {name!r} is not what it is with the same channels silenced in place: "
                "protect the layers before it and report this"
            )
    return []
