"""Running a recipe: apply, verify each step, compare with the input, measure, save."""

from __future__ import annotations

import itertools
import logging
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite import evaluate
from onnxlite.analysis.summary import inspect
from onnxlite.errors import (
    ExecutionError,
    OptionError,
    SamplesError,
    SaveError,
    VerificationError,
)
from onnxlite.evaluate import Fidelity, Latency, Metric
from onnxlite.model import (
    ModelLike,
    clone,
    disk_bytes,
    load,
    mapped_files,
    size_bytes,
    to_bytes,
    to_proto,
)
from onnxlite.recipe.document import Recipe
from onnxlite.recipe.outcome import Outcome, RunReport, Sizes, environment
from onnxlite.recipe.split import SampleUse, split
from onnxlite.recipe.steps import SamplesOptional, Step, step_name, uses_samples
from onnxlite.records import Progress, StepReport, silent
from onnxlite.runtime import Outputs, Session, probe_feeds
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.save import save

logger = logging.getLogger(__name__)

#: Serialising a larger model only to know its size would cost more memory than it is worth.
_SERIALISE_BELOW_BYTES = 1 << 28
_FEEDS_VERIFIED = 2


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
    progress: Progress = silent,
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
    progress: Progress = silent,
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
    progress: Progress = silent,
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
    recipe = recipe if isinstance(recipe, Recipe) else Recipe(tuple(recipe))
    original = load(model)
    if output is not None:
        _check_target(Path(output), original)
    calibration, held_out, use = _samples(original, samples, evaluation, recipe)
    classes = None if labels is None else _labels(labels, use)
    reference = _Reference(original, held_out)
    current = clone(original)
    reports: list[StepReport] = []
    for number, step in enumerate(recipe.steps, 1):
        # What was made up, or is kept for the evaluation, decides nothing.
        if isinstance(step, SamplesOptional) and not use.calibration:
            current, report = step.apply(current, None, progress)
        else:
            current, report = step.apply(current, calibration, progress)
        reports.append(report)
        if report.changed:
            reference.verify(current, f"step {number} ({step_name(step)})")
        else:
            logger.warning("step %d (%s): %s", number, step_name(step), report.summary)
    # The file itself, where there is one: no second copy of it is made in memory.
    source = model if isinstance(model, str | os.PathLike) else original
    changed = any(report.changed for report in reports)
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    saved: Path | None = None
    if changed:
        fidelity = evaluate.compare(
            source,
            current,
            held_out,
            metric=metric,
            labels=classes,
            progress=progress,
        )
        _check_finite(fidelity)
        if benchmark:
            latency = evaluate.benchmark(source, current, samples=held_out, progress=progress)
        if output is not None:
            saved = save(current, output, progress=progress)
    sizes = _sizes(model, original, current, saved)
    report_of_run = RunReport(
        changed=changed,
        recipe=recipe.to_toml(),
        command=command,
        input_path=os.fspath(model) if isinstance(model, str | os.PathLike) else None,
        output_path=str(saved) if saved else None,
        input=inspect(original, samples=held_out),
        output=inspect(current, samples=held_out),
        samples=use,
        steps=tuple(reports),
        sizes=sizes,
        fidelity=fidelity,
        latency=latency,
        warnings=_warnings(reports, sizes, latency, use),
        environment=environment(),
        seconds=time.perf_counter() - start,
    )
    if isinstance(model, onnx.ModelProto):
        return Outcome(model=to_proto(current), report=report_of_run)
    return Outcome(model=current, report=report_of_run)


class _Reference:
    """What every step's result is held against: the input model's outputs on a few feeds."""

    def __init__(self, model: ir.Model, samples: SamplesLike) -> None:
        feeds = Samples(samples, input_specs(model))
        self._feeds = list(itertools.islice(feeds, _FEEDS_VERIFIED))
        session = Session(model, threads=1)
        self._outputs = [session.run(feed) for feed in self._feeds]

    def verify(self, model: ir.Model, where: str) -> None:
        """Raise `VerificationError` unless `model` runs with outputs like the reference's."""
        try:
            session = Session(model, threads=1)
            results = [session.run(feed) for feed in self._feeds]
        except ExecutionError as error:
            raise VerificationError(
                f"{where} made a model that does not run, nothing was written; {error}"
            ) from error
        for expected, result in zip(self._outputs, results, strict=True):
            if fault := _fault(expected, result):
                raise VerificationError(f"{where} made a wrong model, nothing was written: {fault}")


def _fault(expected: Outputs, result: Outputs) -> str | None:
    if list(expected) != list(result):
        return f"its outputs are {list(result)}, they were {list(expected)}"
    # Of a sequence or a map nothing but the name is compared.
    for name in [name for name, value in expected.items() if isinstance(value, np.ndarray)]:
        want, have = expected[name], result[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            return (
                f"output {name!r} is {have.dtype}{list(have.shape)}, "
                f"it was {want.dtype}{list(want.shape)}"
            )
        if want.dtype.kind == "f" and (bad := int((np.isfinite(want) & ~np.isfinite(have)).sum())):
            return f"output {name!r} has {bad} new NaN or infinite of {want.size} values"
    return None


def _check_target(target: Path, source: ir.Model) -> None:
    """Refuse before the work what `save` would refuse after it."""
    if target.resolve() in mapped_files(source):
        raise SaveError(
            f"{str(target)!r} is the input, or its external data: choose another output path "
            "(the input is never touched)"
        )
    if not target.parent.is_dir():
        raise SaveError(f"cannot write {str(target)!r}: create the directory first")


def _samples(
    model: ir.Model, samples: SamplesLike | None, evaluation: SamplesLike | None, recipe: Recipe
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Samples for the steps, samples to evaluate on, and the record of which they are."""
    inputs = input_specs(model)
    needy = [step_name(step) for step in recipe.steps if step.needs_samples]
    if samples is not None and any(map(uses_samples, recipe.steps)):
        return split(Samples(samples, inputs), evaluation)
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


def _check_finite(fidelity: Fidelity) -> None:
    if broken := [row for row in fidelity.outputs if row.broken]:
        raise VerificationError(
            f"output {broken[0].name!r} of the result has {broken[0].broken} NaN or infinite "
            "values on the evaluation samples where the input model has none, or the other way "
            "round; nothing was written"
        )


def _sizes(source: ModelLike, original: ir.Model, result: ir.Model, saved: Path | None) -> Sizes:
    before, before_deflated = _serialised(original)
    after, after_deflated = _serialised(result)
    if isinstance(source, str | os.PathLike):
        before = disk_bytes(source)
    elif isinstance(source, onnx.ModelProto):
        before = source.ByteSize()
    if saved is not None:
        after = disk_bytes(saved)
    return Sizes(
        input_bytes=before,
        output_bytes=after,
        input_deflated_bytes=before_deflated,
        output_deflated_bytes=after_deflated,
    )


def _serialised(model: ir.Model) -> tuple[int, int | None]:
    if size_bytes(model) > _SERIALISE_BELOW_BYTES:
        return size_bytes(model), None
    content = to_bytes(model)
    return len(content), len(zlib.compress(content, 6))


def _warnings(
    reports: Sequence[StepReport], sizes: Sizes, latency: Latency | None, use: SampleUse
) -> tuple[str, ...]:
    warnings = [
        f"step {number} ({report.step}) changed nothing: {report.summary}"
        for number, report in enumerate(reports, 1)
        if not report.changed
    ]
    if not any(report.changed for report in reports):
        warnings.append("the model is unchanged, so nothing was written")
    if sizes.output_bytes > sizes.input_bytes:
        warnings.append(
            f"the result is larger than the input: {sizes.output_bytes} bytes against "
            f"{sizes.input_bytes}"
        )
    if latency is not None and latency.ratio.low > 1:
        warnings.append(f"the result is slower than the input: latency ratio {latency.ratio}")
    if use.origin in ("shared", "generated"):
        warnings.append(use.note)
    return tuple(warnings)
