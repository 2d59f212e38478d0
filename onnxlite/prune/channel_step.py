"""Channel pruning: analyse, score, select, remove, verify, repair.

analyse          the model's units, and the samples held out          task
score_groups     a damage curve per group                             scoring
select_units     the number of units to remove from every group       target_search
remove_units     smaller weights, counts and shapes                   removal
verify           equal to the zero-masked model
repair           least squares on the samples                         onnxlite.repair
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.quantized_model import PRUNE_FIRST, already_quantized
from onnxlite.analysis.shapes import generated_feed
from onnxlite.errors import ExecutionError, VerificationError
from onnxlite.fidelity import ReferenceOutputs, is_float
from onnxlite.model import clone
from onnxlite.ops import Ids, value_lengths
from onnxlite.prune.eligibility import channel_block, count_to_keep, removed_by_widths
from onnxlite.prune.importance import DamageCurve
from onnxlite.prune.options import PruneChannels, PruneChannelsReport
from onnxlite.prune.removal import remove_units, zero_mask_units
from onnxlite.prune.report import channel_step_report, weight_shapes
from onnxlite.prune.scoring import GroupScores, output_curves, output_error, score_groups
from onnxlite.prune.target_search import Selection, SelectionCache, TargetSearch, select_branches
from onnxlite.prune.task import PruningTask, RemovedCounts, analyse, chosen_units, one_sample
from onnxlite.records import Skipped, unchanged
from onnxlite.repair import Repair, repair_ir
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.options import BEST_MAX_ROWS, RepairReport
from onnxlite.runtime import check_loads, run_all
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext

#: Largest difference between pruned and zero-masked, relative to the largest number.
_TOLERANCE = 1e-3
#: Samples to repair and compare a trial of branches on, at most.
_TRIAL_SAMPLES = 512


def prune_channels_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: PruneChannels,
    context: StepContext,
) -> tuple[ir.Model, PruneChannelsReport]:
    """Remove units from `model`, which the step owns; see `onnxlite.prune_channels`."""
    start = time.perf_counter()
    if reason := already_quantized(model, PRUNE_FIRST):
        return model, unchanged(PruneChannelsReport, reason, (), start)
    task = analyse(model, samples, options, context)
    scores = score_groups(task)
    selection = select_units(task, scores)
    units = chosen_units(scores.curves, selection.removed)
    before = weight_shapes(model)
    skipped: list[Skipped] = []
    fit: RepairReport | None = None
    if len(units):
        remove_units(model, task.channels, units.tolist())
        skipped = verify(task, units)
    after = weight_shapes(model)
    if task.samples is not None and len(units) and options.repair:
        repair = Repair(seed=options.seed)
        if options.effort == "best":
            repair = msgspec.structs.replace(repair, max_rows=BEST_MAX_ROWS)
        fitting = FitOptions(repair=repair, threads=context.threads)
        model, fit = repair_ir(
            task.reference, model, task.samples, fitting, progress=context.progress
        )
    report = channel_step_report(
        task, selection, (before, after), skipped=(*scores.skipped, *skipped), fit=fit
    )
    return model, msgspec.structs.replace(report, seconds=time.perf_counter() - start)


def select_units(task: PruningTask, scores: GroupScores) -> Selection:
    """Select the units to remove from every group."""
    options = task.options
    if options.widths is not None:
        return Selection(
            removed=removed_by_widths(
                task.channels, task.eligible, task.branches.keys(), options.widths
            )
        )
    if options.remove is not None:
        return Selection(removed=_removed_by_fraction(task, scores.curves, options.remove))
    curves = scores.curves
    removes_branches = task.measures_damage and bool(options.repair)
    branches = task.branches if removes_branches else {}
    if task.measures_damage:
        curves = output_curves(task, scores, branches.keys())
    search = TargetSearch(task, curves, branches)
    cache = None
    if options.latency is not None:
        cache = SelectionCache(search)
        if (known := cache.read()) is not None:
            return known
    if branches:
        selection = select_branches(search, branches, _Trial(task, curves).error)
    else:
        selection = search.select()
    if cache is not None:
        cache.write(selection)
    return selection


def _removed_by_fraction(
    task: PruningTask, curves: Sequence[DamageCurve], remove: float | Mapping[str, float]
) -> RemovedCounts:
    block, minimum = channel_block(task.options.round_to), task.options.min_channels
    removed = []
    for group, curve in zip(task.channels.groups, curves, strict=True):
        fraction = remove.get(group.name, 0.0) if isinstance(remove, Mapping) else remove
        kept = count_to_keep(group, fraction, block=block, minimum=minimum)
        removed.append(len(group.units) - kept if len(curve.order) and fraction else 0)
    return tuple(removed)


class _Trial:
    """Repair of the model without some units, compared on held-out samples."""

    def __init__(self, task: PruningTask, curves: Sequence[DamageCurve]) -> None:
        assert task.samples is not None
        self._task, self._curves = task, curves
        held_out = task.held_out or task.samples
        self._feeds = list(Samples(held_out, task.samples.inputs, limit=_TRIAL_SAMPLES))
        outputs = run_all(task.model, self._feeds, threads=task.context.threads)
        self._expected = ReferenceOutputs(
            outputs, centered=True, varying=bool(value_lengths(task.model))
        )

    def error(self, removed: RemovedCounts) -> float:
        """Repair the model; return the squared output error over the variance."""
        task = self._task
        assert task.fitted is not None
        smaller = task.without(chosen_units(self._curves, removed))
        fitting = FitOptions(repair=Repair(limit=_TRIAL_SAMPLES), threads=task.context.threads)
        candidate, _ = repair_ir(
            task.model, smaller, task.fitted, fitting, progress=task.context.progress
        )
        return output_error(
            self._expected, run_all(candidate, self._feeds, threads=task.context.threads)
        )


def verify(task: PruningTask, units: Ids) -> list[Skipped]:
    """Compare the pruned model with the reference, the same units zero-masked, on one feed.

    Raises:
        VerificationError: they differ.
        ExecutionError: ONNX Runtime cannot load the smaller model.
    """
    check_loads(task.model)
    masked = clone(task.reference)
    try:
        feed = generated_feed(masked) if task.samples is None else one_sample(task.samples)
    except ExecutionError as error:
        return [Skipped("verify", "", "not-runnable", f"no valid input is known: {error}")]
    (original,) = run_all(masked, [feed])
    zero_mask_units(masked, channel_map(masked, feeds=[feed]), units.tolist())
    (expected,), (got,) = run_all(masked, [feed]), run_all(task.model, [feed])
    values: Mapping[str, Any] = expected  # sequences and maps among them, which are not compared
    for name, array in values.items():
        if not isinstance(array, np.ndarray):
            continue
        if array.shape != got[name].shape:
            raise VerificationError(
                f"output {name!r} has the shape {list(got[name].shape)} after pruning and had "
                f"{list(array.shape)}: exclude the layers before it and report this"
            )
        if not is_float(array) or not np.isfinite(array).all():
            continue
        # Without repair an output may be near 0; its rounding error is that of the original.
        scale = max(float(np.abs(side).max(initial=1e-3)) for side in (array, original[name]))
        if float(np.abs(array - got[name]).max(initial=0)) > _TOLERANCE * scale:
            raise VerificationError(
                f"output {name!r} differs from the model with the same channels set to zero: "
                "exclude the layers before it and report this"
            )
    return []
