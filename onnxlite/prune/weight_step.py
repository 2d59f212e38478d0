"""Weight pruning: zeros by magnitude, or by SparseGPT or Wanda with samples.

Zeros do not make ONNX Runtime faster on CPU; they make the file compress. Magnitude pruning
(`magnitude`) works tensor by tensor; what needs samples is in `sparsegpt`.
"""

from __future__ import annotations

import time

import onnx_ir as ir

from onnxlite.analysis.quantized_model import PRUNE_FIRST, already_quantized, computed_weights
from onnxlite.prune.magnitude import zero_smallest
from onnxlite.prune.options import PruneWeights, PruneWeightsChanges, PruneWeightsReport
from onnxlite.prune.sparsegpt import prune_sparsegpt
from onnxlite.prune.sparsity_task import SparsityTask, count_zeros, plan_sparsity, weight_row
from onnxlite.records import Skipped, main_reasons, unchanged
from onnxlite.samples import SamplesLike
from onnxlite.step import StepContext


def prune_weights_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: PruneWeights,
    context: StepContext,
) -> tuple[ir.Model, PruneWeightsReport]:
    """Set weights of `model`, which the step owns, to zero; see `onnxlite.prune_weights`."""
    start = time.perf_counter()
    if reason := already_quantized(model, PRUNE_FIRST):
        return model, unchanged(PruneWeightsReport, reason, (), start)
    task = plan_sparsity(model, samples, options, context)
    skipped: list[Skipped] = []
    if task.samples is None or not task.layers:
        rows = zero_smallest(task)
    else:
        before = [(parameter, count_zeros(parameter)) for parameter in task.layers]
        skipped = prune_sparsegpt(task)
        rows = [weight_row(p, zeros, count_zeros(p)) for p, zeros in before]
    changed = sum(row.zeroed for row in rows)
    zeros = sum(row.zeros for row in rows)
    return model, PruneWeightsReport(
        changed=changed > 0,
        summary=_summary(task, changed, zeros),
        changes=PruneWeightsChanges(weights_zeroed=changed),
        skipped=(*task.skipped, *skipped),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _summary(task: SparsityTask, changed: int, zeros: int) -> str:
    if not task.layers:
        reason = computed_weights(task.model, PRUNE_FIRST)
        reasons = main_reasons(task.skipped) or "it has none that multiplies by constant weights"
        return reason or f"no layer has weights that can be pruned: {reasons}"
    layers, total = len(task.layers), sum(parameter.tensor.size for parameter in task.layers)
    if not changed:
        return f"no weight is below the limit: {zeros} of {total} weights were zero already"
    return (
        f"{zeros} of {total} weights in {layers} layers are zero ({zeros / total:.1%}), "
        f"by {task.method}"
    )
