"""The proof of a result: compared with its input, measured against it, saved, reported."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite import evaluate
from onnxlite.analysis.summary import inspect
from onnxlite.errors import SaveError, VerificationError
from onnxlite.evaluate import Fidelity, Latency, Metric
from onnxlite.model import ModelLike, disk_bytes, mapped_files, size_bytes, to_bytes
from onnxlite.recipe.document import Recipe
from onnxlite.recipe.layers import layer_pairs
from onnxlite.recipe.outcome import RunReport, Sizes, environment
from onnxlite.recipe.split import SampleUse
from onnxlite.records import Progress, StepReport
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs, trim
from onnxlite.save import save

#: Serialising a larger model only to know its size would cost more memory than it is worth.
_SERIALISE_BELOW_BYTES = 1 << 28


def prove(
    model: ModelLike,
    original: ir.Model,
    result: ir.Model,
    held_out: SamplesLike,
    *,
    recipe: Recipe,
    steps: Sequence[StepReport],
    use: SampleUse,
    output: str | os.PathLike[str] | None,
    labels: NDArray[Any] | None,
    metric: Metric | None,
    benchmark: bool | Latency,
    command: str | None,
    start: float,
    progress: Progress,
) -> RunReport:
    """Compare a result with its input, measure it, save it, and write down all of that.

    Args:
        model: the input as the caller gave it.
        original: the same, loaded.
        result: what the steps made of it.
        held_out: samples that no step was given.
        recipe: the steps.
        steps: what each of them reported; where none changed anything, nothing is measured
            or written.
        use: which samples were used for what.
        output: where to write the result.
        labels: class of each held-out sample.
        metric: a task metric.
        benchmark: whether to measure latency; or the latency, where it is measured already.
        command: the command line, for the record.
        start: when the run began, by `time.perf_counter`.
        progress: called as the work goes on.

    Raises:
        VerificationError: the result has new NaN or infinite outputs; nothing was written.
        SaveError: the output cannot be written.
    """
    # The file itself, where there is one: no second copy of it is made in memory.
    source = model if isinstance(model, str | os.PathLike) else original
    changed = any(report.changed for report in steps)
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    saved: Path | None = None
    if changed:
        fidelity = evaluate.compare(
            source,
            result,
            held_out,
            metric=metric,
            labels=labels,
            progress=progress,
        )
        _check_finite(fidelity)
        if isinstance(benchmark, Latency):
            latency = benchmark
        elif benchmark:
            latency = evaluate.benchmark(source, result, samples=held_out, progress=progress)
        if output is not None:
            saved = save(result, output, progress=progress)
    sizes = _sizes(model, original, result, saved)
    before, after = inspect(original, samples=held_out), inspect(result, samples=held_out)
    feed = _one(original, held_out) if latency is not None else None
    return RunReport(
        changed=changed,
        recipe=recipe.to_toml(),
        command=command,
        input_path=os.fspath(model) if isinstance(model, str | os.PathLike) else None,
        output_path=str(saved) if saved else None,
        input=before,
        output=after,
        samples=use,
        steps=tuple(steps),
        layers=layer_pairs(original, result, before, after, feed) if changed else (),
        sizes=sizes,
        fidelity=fidelity,
        latency=latency,
        warnings=_warnings(steps, sizes, latency, use),
        environment=environment(),
        seconds=time.perf_counter() - start,
    )


def _one(model: ir.Model, samples: SamplesLike) -> Feed:
    """One sample, or a whole feed where its size is fixed."""
    specs = input_specs(model)
    first = next(iter(Samples(samples, specs)))
    return trim(first, specs, 1) or first


def check_target(target: Path, source: ir.Model) -> None:
    """Refuse before the work what `save` would refuse after it."""
    if target.resolve() in mapped_files(source):
        raise SaveError(
            f"{str(target)!r} is the input, or its external data: choose another output path "
            "(the input is never touched)"
        )
    if not target.parent.is_dir():
        raise SaveError(f"cannot write {str(target)!r}: create the directory first")


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
