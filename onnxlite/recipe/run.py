"""Running a recipe: apply, verify each step, compare with the input, measure, save."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import record_original
from onnxlite.errors import OptionError, SamplesError
from onnxlite.evaluate import Metric
from onnxlite.model import ModelLike, clone, load, plain_model, to_proto
from onnxlite.recipe.document import Recipe
from onnxlite.recipe.outcome import Outcome
from onnxlite.recipe.proof import check_target, prove
from onnxlite.recipe.split import SampleUse, split
from onnxlite.recipe.steps import SamplesOptional, Step, changes_io, step_name, uses_samples
from onnxlite.recipe.verify import Reference
from onnxlite.records import Progress, StepReport, no_progress
from onnxlite.runtime import probe_feeds
from onnxlite.samples import Samples, SamplesLike, input_specs

logger = logging.getLogger(__name__)


@overload
def run(
    model: onnx.ModelProto,
    samples: SamplesLike | None,
    recipe: Recipe | Sequence[Step],
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: Metric | None = None,
    benchmark: bool = True,
    command: str | None = None,
    progress: Progress = no_progress,
) -> Outcome[onnx.ModelProto]: ...
@overload
def run(
    model: str | os.PathLike[str] | ir.Model,
    samples: SamplesLike | None,
    recipe: Recipe | Sequence[Step],
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: Metric | None = None,
    benchmark: bool = True,
    command: str | None = None,
    progress: Progress = no_progress,
) -> Outcome[ir.Model]: ...
def run(
    model: ModelLike,
    samples: SamplesLike | None,
    recipe: Recipe | Sequence[Step],
    *,
    output: str | os.PathLike[str] | None = None,
    evaluation: SamplesLike | None = None,
    labels: NDArray[Any] | Sequence[int] | None = None,
    metric: Metric | None = None,
    benchmark: bool = True,
    command: str | None = None,
    progress: Progress = no_progress,
) -> Outcome[onnx.ModelProto] | Outcome[ir.Model]:
    """Apply a recipe to a model, prove the result, and save it.

    After every step ONNX Runtime must load and run the model with the outputs of the
    input model: same names, same shapes, finite where they were finite. The result is
    compared with the *input* on samples that no step was given.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is never changed.
        samples: unlabelled inputs, in any form of `SamplesLike`; None if no step of the
            recipe needs them (fidelity is then measured on generated inputs).
        recipe: what to do.
        output: write the result here, atomically. Nothing is written if no step changed
            the model.
        evaluation: separate samples to measure fidelity on. Without them the last
            quarter of `samples` (at least 8, at most half) is held out for that.
        labels: class of each evaluation sample (of each of `samples`, if those are
            split), for the accuracy of both models.
        metric: a task metric of a model's outputs, see `compare`.
        benchmark: whether to measure the latency of the result against the input.
        command: the command line, for the record.
        progress: called as the work goes on.

    Returns:
        The result in the kind of `model`, and the report. `report.warnings` says if the
        result is larger or slower than the input, or unchanged.

    Raises:
        OptionError: a wrong recipe, or a step needs samples and there are none.
        SaveError: the output path cannot be written, or is a file of the input.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the input model.
        VerificationError: a step's result is not valid; nothing was written.
    """
    start = time.perf_counter()
    model = plain_model(model)
    recipe = recipe if isinstance(recipe, Recipe) else Recipe(tuple(recipe))
    original = load(model)
    if output is not None:
        check_target(Path(output), original)
    calibration, held_out, use = _samples(original, samples, evaluation, recipe)
    classes = None if labels is None else _labels(labels, use)
    reference = Reference(original, held_out)
    current = clone(original)
    reports: list[StepReport] = []
    for number, step in enumerate(recipe.steps, 1):
        record_original(current, original)
        # What was made up, or is kept for the evaluation, decides nothing.
        if isinstance(step, SamplesOptional) and not use.calibration:
            current, report = step.apply(current, None, progress)
        else:
            current, report = step.apply(current, calibration, progress)
        reports.append(report)
        if report.changed:
            narrowed = any(map(changes_io, recipe.steps[:number]))
            reference.verify(current, f"step {number} ({step_name(step)})", any_width=narrowed)
        else:
            logger.warning("step %d (%s): %s", number, step_name(step), report.summary)
    record = prove(
        model,
        original,
        current,
        held_out,
        recipe=recipe,
        steps=reports,
        use=use,
        output=output,
        labels=classes,
        metric=metric,
        benchmark=benchmark,
        command=command,
        start=start,
        progress=progress,
    )
    if isinstance(model, onnx.ModelProto):
        return Outcome(model=to_proto(current), report=record)
    return Outcome(model=current, report=record)


def _samples(
    model: ir.Model, samples: SamplesLike | None, evaluation: SamplesLike | None, recipe: Recipe
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Samples for the steps, samples to evaluate on, and the record of which they are."""
    inputs = input_specs(model)
    needy = [step_name(step) for step in recipe.steps if step.needs_samples]
    if samples is not None and (recipe.calibration or any(map(uses_samples, recipe.steps))):
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
