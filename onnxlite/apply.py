"""Application of a step to a model, with lengths tied while it measures."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from msgspec.structs import replace

from onnxlite.errors import OptionError
from onnxlite.model import ModelLike, load
from onnxlite.samples import SamplesLike
from onnxlite.step import Result, Step, StepContext, as_result
from onnxlite.tied_lengths import agreement, tie_lengths


def apply_step(
    step: Step, model: ir.Model, samples: SamplesLike | None, context: StepContext
) -> tuple[ir.Model, Any]:
    """Apply a step; lengths that depend on values are tied for it, see `tied_lengths`.

    Args:
        step: the options.
        model: the step may change it.
        samples: unlabelled inputs; without them nothing is tied.
        context: threads, executor and progress.

    Returns:
        The model, and the step's own report.
    """
    if samples is None or not step.ties_lengths:
        return step.apply(model, samples, context)
    tied = tie_lengths(model, samples, limit=getattr(step, "limit", None), threads=context.threads)
    if tied is None:
        return step.apply(model, samples, context)
    lengths, feeds = tied
    made, report = step.apply(lengths.model, feeds, context)
    result = lengths.restore(made)
    equal = agreement(result, feeds, threads=context.threads)
    summary = f"{report.summary}; figures are for tied lengths, {equal:.1%} of which agree"
    return result, replace(report, summary=summary)


def run_step(
    step: Step, model: ModelLike, samples: SamplesLike | None, context: StepContext
) -> Result[Any, Any]:
    """Apply one step to a model of any kind; the model is not changed.

    Returns:
        The model, and the step's own report.

    Raises:
        OptionError: the step needs samples, and there are none.
    """
    if samples is None and step.needs_samples:
        raise OptionError(f"{step.name()} needs samples: give some hundred unlabelled inputs")
    return as_result(model, *apply_step(step, load(model), samples, context))
