"""The proof of a run: each step's model runs, and the result is compared, timed and saved."""

from __future__ import annotations

import itertools
import math
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite import evaluate
from onnxlite.analysis.summary import inspect
from onnxlite.errors import ExecutionError, SaveError, VerificationError
from onnxlite.evaluate import Fidelity, Latency
from onnxlite.fidelity import common_part
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import PlainModel, disk_bytes, mapped_files, size_bytes, to_bytes
from onnxlite.ops import value_lengths
from onnxlite.recipe.document import Recipe
from onnxlite.recipe.layers import layer_pairs
from onnxlite.recipe.report import RunReport, Sizes, environment
from onnxlite.recipe.split import SampleUse
from onnxlite.records import StepReport, Usability
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.save import save
from onnxlite.step import StepContext
from onnxlite.task_metrics import MetricLike
from onnxlite.usability import (
    Figures,
    PartFigures,
    counted_tasks,
    judge,
    judge_models,
    score_outputs,
)

#: Serialising a larger model only to know its size would cost more memory than it is worth.
_SERIALISE_BELOW_BYTES = 1 << 28
_FEEDS_VERIFIED = 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """Request and inputs of a run.

    Attributes:
        model: the input as the caller gave it.
        original: the same, loaded.
        recipe: the steps.
        held_out: samples that no step was given.
        use: which samples were used for what.
        output: where to write the result.
        force: write a result that is not usable as well.
        require_last: the model counts as unchanged if the last step changed nothing.
        benchmark: whether to measure latency; or the latency, where it is measured already.
        labels: class of each held-out sample.
        metric: a task metric.
        context: threads and progress.
        start: when the run began, by `time.perf_counter`.
    """

    model: PlainModel
    original: ir.Model
    recipe: Recipe
    held_out: SamplesLike
    use: SampleUse
    output: Path | None
    force: bool = False
    require_last: bool = False
    benchmark: bool | Latency
    labels: NDArray[Any] | None = None
    metric: MetricLike | None = None
    context: StepContext
    start: float

    def changed_by(self, steps: Sequence[StepReport]) -> bool:
        """Tell whether steps with these reports changed what they were asked to change."""
        return any(report.changed for report in (steps[-1:] if self.require_last else steps))


class Reference:
    """The input model's outputs on a few feeds, which every step's result is compared with."""

    def __init__(self, model: ir.Model, samples: SamplesLike) -> None:
        feeds = Samples(samples, input_specs(model))
        self._feeds = list(itertools.islice(feeds, _FEEDS_VERIFIED))
        self._varying = bool(value_lengths(model))
        session = Session(model, threads=1)
        self._outputs = [session.run(feed) for feed in self._feeds]

    def verify(self, model: ir.Model, where: str, *, any_width: bool = False) -> None:
        """Raise `VerificationError` unless `model` runs with outputs like the reference's.

        Args:
            model: the result of a step.
            where: the step, for the message.
            any_width: float inputs and outputs may have another width than the reference's.
        """
        try:
            session = Session(model, threads=1)
            feeds = [session.suited(feed) for feed in self._feeds] if any_width else self._feeds
            results = [session.run(feed) for feed in feeds]
        except ExecutionError as error:
            raise VerificationError(
                f"{where} made a model that does not run, nothing was written; {error}"
            ) from error
        for expected, result in zip(self._outputs, results, strict=True):
            if fault := _fault(expected, result, any_width=any_width, varying=self._varying):
                raise VerificationError(f"{where} made a wrong model, nothing was written: {fault}")


def prove(run: Run, result: ir.Model, steps: Sequence[StepReport]) -> RunReport:
    """Compare a result with its input, measure it, save it, and record all of that.

    Args:
        run: what was asked for.
        result: what the steps made of the input.
        steps: the report of each; where they changed nothing, nothing is measured or written.

    Raises:
        VerificationError: the result has new NaN or infinite outputs; nothing was written.
        SaveError: the output cannot be written.
    """
    model, changed = run.model, run.changed_by(steps)
    fidelity, latency = _measured(run, result) if changed else (None, None)
    usability = None if fidelity is None else _judged(run, result, fidelity, steps)
    writes = usability is not None and (usability.usable or run.force)
    saved: Path | None = None
    if writes and run.output is not None:
        saved = save(result, run.output, progress=run.context.progress)
    sizes = _sizes(run, result, saved)
    before, after = (
        inspect(run.original, samples=run.held_out),
        inspect(result, samples=run.held_out),
    )
    feed = _one(run.original, run.held_out) if latency is not None else None
    return RunReport(
        changed=changed,
        recipe=run.recipe.to_toml(),
        input_path=os.fspath(model) if isinstance(model, str | os.PathLike) else None,
        output_path=str(saved) if saved else None,
        input=before,
        output=after,
        samples=run.use,
        steps=tuple(steps),
        layers=layer_pairs(run.original, result, before, after, feed) if changed else (),
        sizes=sizes,
        usability=usability,
        fidelity=fidelity,
        latency=latency,
        warnings=(
            *_unchanged_warnings(steps, changed=changed),
            *_warnings(sizes, latency, run.use),
            *_tail_warnings(fidelity),
        ),
        environment=environment(),
        seconds=time.perf_counter() - run.start,
    )


def check_target(target: Path, source: ir.Model) -> None:
    """Refuse before the work what `save` would refuse after it.

    Raises:
        SaveError: the target is the input, or its folder is missing.
    """
    if target.resolve() in mapped_files(source):
        raise SaveError(
            f"{str(target)!r} is the input, or its external data: choose another output path "
            "(the input is never touched)"
        )
    if not target.parent.is_dir():
        raise SaveError(f"cannot write {str(target)!r}: create the directory first")


def _fault(expected: Outputs, result: Outputs, *, any_width: bool, varying: bool) -> str | None:
    """The first difference in names, types, shapes or finiteness of two models' outputs."""
    if list(expected) != list(result):
        return f"its outputs are {list(result)}, they were {list(expected)}"
    # Of a sequence or a map nothing but the name is compared.
    for name in [name for name, value in expected.items() if isinstance(value, np.ndarray)]:
        want, have = expected[name], result[name]
        like = have.dtype == want.dtype or (any_width and have.dtype.kind == want.dtype.kind == "f")
        fits = have.shape == want.shape or (varying and have.ndim == want.ndim)
        if not fits or not like:
            return (
                f"output {name!r} is {have.dtype}{list(have.shape)}, "
                f"it was {want.dtype}{list(want.shape)}"
            )
        want, have = common_part(name, want, have, varying=varying)
        if want.dtype.kind == "f" and (bad := int((np.isfinite(want) & ~np.isfinite(have)).sum())):
            return f"output {name!r} has {bad} new NaN or infinite of {want.size} values"
    return None


def _measured(run: Run, result: ir.Model) -> tuple[Fidelity, Latency | None]:
    """Fidelity and latency of the result against the input."""
    # The file itself, where there is one: no second copy of it is made in memory.
    source = run.model if isinstance(run.model, str | os.PathLike) else run.original
    progress = run.context.progress
    fidelity = evaluate.compare(
        source,
        result,
        samples=run.held_out,
        metric=run.metric,
        labels=run.labels,
        threads=run.context.threads,
        progress=progress,
    )
    _check_finite(fidelity)
    if isinstance(run.benchmark, Latency):
        return fidelity, run.benchmark
    if not run.benchmark:
        return fidelity, None
    return fidelity, evaluate.benchmark(source, result, samples=run.held_out, progress=progress)


def judge_fidelity(
    original: ir.Model, fidelity: Fidelity, *, floor_db: float | None, advice: str
) -> Usability:
    """Judge a result by its fidelity to the original on real samples.

    Args:
        original: tells which outputs hold class scores.
        fidelity: of the result.
        floor_db: see `usability.judge`.
        advice: the same.
    """
    scores = score_outputs(original)
    figures = Figures(
        samples=fidelity.samples,
        parts=tuple(
            PartFigures(
                row.name,
                part.label,
                math.inf if part.sqnr_db is None else part.sqnr_db,
                None if part.kind == "scores" else part.cosine,
            )
            for row in fidelity.outputs
            for part in row.parts
            if not part.undecided
        ),
        agreement={
            row.name: row.agreement
            for row in fidelity.outputs
            if row.name in scores and row.agreement is not None
        },
        tasks=counted_tasks(fidelity.metrics),
        unseen=tuple(
            part.label
            for row in fidelity.outputs
            for part in row.parts
            if part.kind == "scores" and part.undecided
        ),
        broken=next((row.name for row in fidelity.outputs if row.broken), ""),
    )
    return judge(figures, floor_db=floor_db, advice=advice)


def _judged(
    run: Run, result: ir.Model, fidelity: Fidelity, steps: Sequence[StepReport]
) -> Usability:
    """Judge the result of a run; generated inputs decide nothing."""
    if run.use.origin == "generated":
        return Usability().undecided("there are no samples to judge it on")
    pairs = list(zip(run.recipe.steps, steps, strict=False))
    advice = next(step.advice for step, report in reversed(pairs) if report.changed)
    if fidelity.length_agreement is None and value_lengths(run.original):
        # Outputs of other lengths hold other frames: they cannot be judged side by side.
        return judge_models(
            run.original,
            result,
            run.held_out,
            floor_db=run.context.floor_db,
            advice=advice,
            threads=run.context.threads,
        )
    return judge_fidelity(run.original, fidelity, floor_db=run.context.floor_db, advice=advice)


def _check_finite(fidelity: Fidelity) -> None:
    if broken := [row for row in fidelity.outputs if row.broken]:
        raise VerificationError(
            f"output {broken[0].name!r} of the result has {broken[0].broken} NaN or infinite "
            "values on the evaluation samples where the input model has none, or the other way "
            "round; nothing was written"
        )


def _one(model: ir.Model, samples: SamplesLike) -> Feed:
    """One sample, or a whole feed where its size is fixed."""
    stream = Samples(samples, input_specs(model))
    first = next(iter(stream))
    return trim(first, stream.inputs, 1) or first


def _sizes(run: Run, result: ir.Model, saved: Path | None) -> Sizes:
    before, before_deflated = _serialised(run.original)
    after, after_deflated = _serialised(result)
    if isinstance(run.model, str | os.PathLike):
        before = disk_bytes(run.model)
    elif isinstance(run.model, onnx.ModelProto):
        before = run.model.ByteSize()
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


def _unchanged_warnings(reports: Sequence[StepReport], *, changed: bool) -> list[str]:
    warnings = [
        f"step {number} ({report.step}) changed nothing: {report.summary}"
        for number, report in enumerate(reports, 1)
        if not report.changed
    ]
    if others := [] if changed else [report.step for report in reports if report.changed]:
        warnings.append(
            f"only {', '.join(others)} changed the model, so nothing was written: run that step "
            "alone if its result is wanted"
        )
    elif not changed:
        warnings.append("the model is unchanged, so nothing was written")
    return warnings


def _warnings(sizes: Sizes, latency: Latency | None, use: SampleUse) -> tuple[str, ...]:
    warnings = []
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


def _tail_warnings(fidelity: Fidelity | None) -> list[str]:
    """Name outputs of which few samples carry most of the noise."""
    return [
        f"{spread.worst_count} of {spread.samples:,} samples made {spread.worst_fraction:.0%} of "
        f"the noise of {row.worst_part}: look at sample {spread.worst_sample} ({spread.worst:.1f} "
        f"dB, median {spread.median:.1f} dB); unseen samples may be worse"
        for row in (fidelity.outputs if fidelity is not None else ())
        if (spread := row.per_sample) is not None and spread.is_heavy
    ]
