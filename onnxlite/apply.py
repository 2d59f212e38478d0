"""Application of a step to a model: lengths are tied while it measures, the result is judged.

Every result is checked (`accepted`). A recipe applies its steps one after the other and judges the
last result alone; a function that applies one step judges what it made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace

from onnxlite.batch_axis import bind
from onnxlite.errors import OVERFLOW_ADVICE, OptionError, SamplesError
from onnxlite.fidelity import is_float
from onnxlite.inputs import input_specs
from onnxlite.model import ModelLike, clone, give_back, load
from onnxlite.records import StepReport, unchanged
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import Result, Step, StepContext
from onnxlite.tied_lengths import agreement, tie_lengths
from onnxlite.usability import judge_models
from onnxlite.validity import invalidity, restore_interface

#: Feeds that are searched for infinite numbers.
_FEEDS = 8

logger = logging.getLogger(__name__)

StepReportT = TypeVar("StepReportT", bound=StepReport)


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
    source = clone(model)
    if samples is not None and step.samples != "unused":
        check_infinite_inputs(model, samples, threads=context.threads)
    return accepted(step, source, *_applied(step, model, samples, context))


def _applied(
    step: Step, model: ir.Model, samples: SamplesLike | None, context: StepContext
) -> tuple[ir.Model, Any]:
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


def check_infinite_inputs(
    model: ir.Model, samples: SamplesLike, *, threads: int | None = None
) -> None:
    """Accept infinite numbers in samples, such as -inf in a mask, if the outputs stay finite.

    The first feeds are looked at; without infinite numbers in them the model is not run.

    Raises:
        SamplesError: an output is NaN or infinite on such a feed.
    """
    if isinstance(samples, Iterator):
        return  # it can be read only once, and the step needs it
    session: Session | None = None
    for index, feed in enumerate(islice(Samples(samples, input_specs(model)), _FEEDS)):
        infinite = [name for name, a in feed.items() if is_float(a) and np.isinf(a).any()]
        if not infinite:
            continue
        session = session or Session(model, threads=threads)
        for name, array in session.run(feed).items():
            if is_float(array) and not np.isfinite(array).all():
                raise SamplesError(
                    f"feed {index}: input {infinite[0]!r} has infinite values, and output {name!r} "
                    f"is not finite: {OVERFLOW_ADVICE}"
                )


def accepted(
    step: Step, source: ir.Model, model: ir.Model, report: StepReportT
) -> tuple[ir.Model, StepReportT]:
    """Return a step's result with the declared interface, or the source if it is not valid.

    Args:
        step: the step that made the result.
        source: the model that came in.
        model: the result, whose declared inputs and outputs are rewritten in place.
        report: of the step.

    Returns:
        The result and the report; for a result that has another interface, or that
        `onnx.checker` refuses although it accepts the source, the source and the reason.
    """
    restore_interface(source, model, types=not step.changes_io)
    if not report.changed:
        return model, report
    fault = invalidity(source, model, any_width=step.changes_io)
    if fault is None:
        return model, report
    reason = f"the result was not valid, so the model is as it was: {fault}"
    undone = unchanged(type(report), reason, report.skipped, time.perf_counter() - report.seconds)
    return source, undone


def run_step(
    step: Step, model: ModelLike, samples: SamplesLike | None, context: StepContext
) -> Result[Any, Any]:
    """Apply one step to a model of any kind, which is not changed, and judge the result.

    Returns:
        The model, and the step's own report.

    Raises:
        OptionError: the step needs samples, and there are none.
    """
    if samples is None and step.needs_samples:
        raise OptionError(f"{step.name()} needs samples: give some hundred unlabelled inputs")
    return judged_step(step, model, samples, context)


def judged_step(
    step: Step, model: ModelLike, samples: SamplesLike | None, context: StepContext
) -> Result[Any, Any]:
    """Apply a step, and judge the result; samples are optional."""
    source = load(model)
    samples = bind(source, samples, context.batch_axis)
    result, report = apply_step(step, source, samples, context)
    return judged_result(step, model, (load(model), result), report, samples, context)


def judged_result(
    step: Step,
    source: ModelLike,
    models: tuple[ir.Model, ir.Model],
    report: StepReportT,
    samples: SamplesLike | None,
    context: StepContext,
) -> Result[Any, StepReportT]:
    """Return a step's model like `as_result`, judged on samples; warn if it is not usable.

    Args:
        step: the step, for its advice.
        source: the model whose kind the result gets.
        models: reference and result.
        report: of the step; an unchanged model is not judged.
        samples: unlabelled inputs, or None.
        context: floor and threads.
    """
    if report.changed:
        usability = judge_models(
            *models,
            samples,
            floor_db=context.floor_db,
            advice=step.advice,
            spread=step.holds_out == "spread samples",
            threads=context.threads,
        )
        report = replace(report, usability=usability)
        if not report.usable:
            logger.warning("%s: the result is %s", report.step, usability)
    return as_result(source, models[1], report)


def as_result(source: ModelLike, model: ir.Model, report: StepReportT) -> Result[Any, StepReportT]:
    """Return a step's model in the kind of `source`; warn if the step did nothing."""
    if not report.changed:
        logger.warning("%s changed nothing: %s", report.step, report.summary)
    return Result(give_back(source, model), report)
