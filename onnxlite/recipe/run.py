"""Running a recipe: apply each step, verify it, then prove the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.analysis.lineage import record_original
from onnxlite.apply import apply_step
from onnxlite.batch_axis import bind
from onnxlite.errors import OptionError, SamplesError
from onnxlite.inputs import input_specs
from onnxlite.model import ModelLike, clone, give_back, load, plain_model
from onnxlite.options import Options
from onnxlite.recipe.document import Recipe, RecipeLike, as_recipe
from onnxlite.recipe.proof import Reference, Run, check_target, prove
from onnxlite.recipe.report import RunReport
from onnxlite.recipe.split import SampleUse, split
from onnxlite.records import StepReport
from onnxlite.runtime import probe_feeds
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import Result, StepContext, from_options
from onnxlite.task_metrics import MetricLike

logger = logging.getLogger(__name__)


class RunOptions(Options, frozen=True, kw_only=True):
    """Options of `run`."""

    output: (
        Annotated[
            Path,
            Meta(
                description="Write the result here, atomically. Nothing is written if no step "
                "changed the model, or if the result is not usable."
            ),
        ]
        | None
    ) = None
    force: Annotated[
        bool,
        Meta(description="Write the result even if it is not usable, see `floor_db`."),
    ] = False
    require_last: Annotated[
        bool,
        Meta(
            description="Return the input and write nothing if the last step changed nothing, "
            "even where steps before it did: for a recipe that is there for its last step."
        ),
    ] = False
    benchmark: Annotated[
        bool, Meta(description="Measure the latency of the result against the input.")
    ] = True


@from_options(RunOptions, runtime=("batch_axis", "threads", "executor", "floor_db", "progress"))
def run(
    model: ModelLike,
    recipe: RecipeLike,
    *,
    samples: SamplesLike | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: MetricLike | None = None,
    options: RunOptions,
    context: StepContext,
) -> Result[Any, RunReport]:
    """Apply a recipe to a model, prove the result, and save it.

    After every step ONNX Runtime must load and run the model with the outputs of the
    input model: same names, same shapes, finite where they were finite. The result is
    compared with the *input* on samples that no step was given.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is never changed.
        recipe: a `Recipe`, a list of steps, or the path of a recipe as TOML.
        samples: unlabelled inputs, in any form of `SamplesLike`; None if no step of the
            recipe needs them (fidelity is then measured on generated inputs).
        evaluation: separate samples to measure fidelity on. Without them the last quarter of
            `samples` (at least 8, at most half) is held out for that.
        labels: class of each evaluation sample (of each of `samples`, if those are split),
            for the accuracy of both models.
        metric: a task metric, see `compare`; None proposes the one that fits.

    Returns:
        The result in the kind of `model`, and the report. `report.warnings` says if the
        result is larger or slower than the input, or unchanged. `usable` is False for a
        result that computes nothing of use on the evaluation samples; steps in the middle are
        not judged, since a later one may repair what they did.

    Raises:
        OptionError: a wrong recipe, or a step needs samples and there are none.
        SaveError: the output path cannot be written, or is a file of the input.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the input model.
        VerificationError: a step's result is not valid; nothing was written.
    """
    start = time.perf_counter()
    recipe = as_recipe(recipe)
    model = plain_model(model)
    original = load(model)
    if options.output is not None:
        check_target(options.output, original)
    samples = bind(original, samples, context.batch_axis)
    evaluation = bind(original, evaluation, context.batch_axis)
    calibration, held_out, use = _samples(original, samples, evaluation, recipe)
    asked = Run(
        model=model,
        original=original,
        recipe=recipe,
        held_out=held_out,
        use=use,
        output=options.output,
        force=options.force,
        require_last=options.require_last,
        benchmark=options.benchmark,
        labels=None if labels is None else _labels(labels, use),
        metric=metric,
        context=context,
        start=start,
    )
    result, reports = _applied(asked, calibration)
    if not asked.changed_by(reports):
        result = clone(original)
    return Result(give_back(model, result), prove(asked, result, reports))


def _applied(run: Run, calibration: SamplesLike) -> tuple[ir.Model, list[StepReport]]:
    """Apply the steps one after the other, and verify the model after each."""
    reference = Reference(run.original, run.held_out)
    current = clone(run.original)
    reports: list[StepReport] = []
    narrowed = False
    for number, step in enumerate(run.recipe.steps, 1):
        record_original(current, run.original)
        # Generated samples, or those kept for the evaluation, decide nothing.
        given = calibration if run.use.calibration or not step.fits_samples else None
        current, report = apply_step(step, current, given, run.context)
        reports.append(report)
        narrowed = narrowed or step.changes_io
        if report.changed:
            where = f"step {number} ({step.name()})"
            reference.verify(current, where, any_width=narrowed)
        else:
            logger.warning("step %d (%s): %s", number, step.name(), report.summary)
    return current, reports


def _samples(
    model: ir.Model, samples: SamplesLike | None, evaluation: SamplesLike | None, recipe: Recipe
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Samples for the steps, samples to evaluate on, and the record of which they are."""
    inputs = input_specs(model)
    needy = [step.name() for step in recipe.steps if step.needs_samples]
    fitted = recipe.calibration or any(step.fits_samples for step in recipe.steps)
    if samples is not None and fitted:
        return split(Samples(samples, inputs), evaluation, calibration=recipe.calibration)
    if needy:
        takes = ", ".join(str(spec) for spec in inputs)
        raise OptionError(
            f"the step {needy[0]!r} needs samples: give some hundred real inputs ({takes})"
        )
    real = evaluation if evaluation is not None else samples
    if real is not None:
        checked = Samples(real, inputs)
        count = checked.count()
        note = f"no step needs samples: all {count} are for evaluation"
        use = SampleUse(calibration=0, evaluation=count, origin="given", note=note)
        return checked, checked, use
    feeds = probe_feeds(model)
    note = "no samples given: fidelity is measured on generated inputs and says little"
    use = SampleUse(calibration=0, evaluation=len(feeds), origin="generated", note=note)
    return feeds, feeds, use


def _labels(labels: NDArray[Any] | Sequence[int], use: SampleUse) -> NDArray[Any]:
    """The labels of the evaluation samples; of a set that was split these are the last."""
    array = np.asarray(labels)
    if use.origin == "held-out" and len(array) == use.calibration + use.evaluation:
        array = array[use.calibration :]
    if array.shape != (use.evaluation,):
        raise SamplesError(
            f"labels of shape {list(array.shape)} for {use.evaluation} evaluation samples: give "
            "one class per sample"
        )
    return array
