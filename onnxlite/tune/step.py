"""Tuning as a step: teacher's answers, training, and the proof in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
import torch

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.analysis.value_matching import match_values
from onnxlite.errors import OptionError
from onnxlite.graph import is_op
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.records import Progress, StepReport, no_progress
from onnxlite.samples import Samples, SamplesLike, feed_size, input_specs
from onnxlite.tune.dataset import Dataset, Row, batches
from onnxlite.tune.losses import Loss, class_outputs
from onnxlite.tune.options import TuneOptions
from onnxlite.tune.parameters import Tensors
from onnxlite.tune.significance import by_chance, losses_of
from onnxlite.tune.student import Student
from onnxlite.tune.train import STEP, gained, train


def tune_ir(
    model: ir.Model,
    reference: ir.Model,
    samples: SamplesLike,
    options: TuneOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> tuple[ir.Model, StepReport]:
    """Tune a private copy of a model; see `onnxlite.tune`."""
    start = time.perf_counter()
    options = options or TuneOptions()
    options.check()
    source, reference = clone(model), clone(reference)
    normalize(reference)
    infer_shapes(reference)
    _check_pair(model, reference)
    with _threads(options.threads):
        student = Student(model, reference)
        if not student.learned:
            return source, _report("the model has no constant that can be learned", start)
        pairs = _inner_pairs(reference, student.model) if options.inner else {}
        stream = Samples(samples, input_specs(reference), batch=1, limit=options.limit)
        labels = None
        if options.labels is not None:
            sizes = [feed_size(feed, input_specs(reference)) for feed in stream]
            labels = options.classes(sum(sizes))
        rows = Dataset(
            reference,
            stream,
            list(pairs),
            labels=None if labels is None else labels.tolist(),
            vary=options.vary,
            seed=options.seed,
            threads=options.threads,
        )
        if labels is not None and not rows.apart and len(labels) != rows.count:
            raise OptionError("labels need samples that are fed one by one")
        rows, pairs = _with_kept_channels(rows, pairs)
        loss = _loss(reference, student, rows, {k: v[0] for k, v in pairs.items()}, options)
        training, held = rows.training, rows.held
        course = train(
            student, loss, training, held, apart=rows.apart, options=options, progress=progress
        )
        if not gained(course.before, course.best):
            return source, _report(
                f"{course.steps} steps at rate {course.rate:g} did not get closer to the "
                f"reference on {len(held)} samples held out (loss {course.before:.4g})",
                start,
            )
        result = student.written()
        losses = [
            losses_of(
                side,
                loss,
                held,
                apart=rows.apart,
                size=options.batch,
                threads=options.threads,
            )
            for side in (source, result)
        ]
    before, after = (float(each.mean()) for each in losses)
    change = f"on {len(held)} samples held out, in ONNX Runtime: loss {before:.4g} -> {after:.4g}"
    if not gained(before, after):
        return source, _report(f"the tuned model is not better {change}", start)
    if (chance := by_chance(*losses)) > before - after:
        change += f", and a difference of {chance:.2g} may be chance"
        return source, _report(f"the tuned model is not clearly better {change}", start)
    kinds: dict[str, int] = {}
    for item in student.learned:
        kind = _KINDS[type(item).__name__]
        kinds[kind] = kinds.get(kind, 0) + 1
    return result, StepReport(
        step=STEP,
        changed=True,
        summary=f"{course.steps} steps at rate {course.rate:g} on {len(training)} rows; {change}",
        changes=kinds,
        seconds=time.perf_counter() - start,
    )


_KINDS = {
    "ActivationScale": "scales-tuned",
    "FloatConstant": "constants-tuned",
    "PackedWeight": "packed-weights-tuned",
    "QuantizedBias": "integer-biases-tuned",
    "QuantizedWeight": "integer-weights-tuned",
}

#: A teacher's value with the student's, the channels that are left, and their axis.
_Pairs = dict[str, tuple[str, tuple[int, ...] | None, int]]


def _report(reason: str, start: float) -> StepReport:
    seconds = time.perf_counter() - start
    return StepReport(step=STEP, changed=False, summary=reason, seconds=seconds)


def _check_pair(model: ir.Model, reference: ir.Model) -> None:
    for what in ("inputs", "outputs"):
        names = [{v.name for v in getattr(m.graph, what)} for m in (model, reference)]
        if names[0] != names[1]:
            raise OptionError(
                f"the model's {what} are {sorted(map(str, names[0]))} and the reference's "
                f"{sorted(map(str, names[1]))}: tuning needs the model that this one was made from"
            )


def _inner_pairs(reference: ir.Model, student: ir.Model) -> _Pairs:
    """Inner values that both models have, by the teacher's name."""
    shaped = clone(student)
    infer_shapes(shaped)
    inputs = {v.name or "": v.name or "" for v in reference.graph.inputs}
    outputs = {v.name for v in reference.graph.outputs}
    found: _Pairs = {}
    for row in match_values(reference, shaped, inputs):
        value = row.candidate
        if row.op_type == "input" or row.reference.name in outputs:
            continue
        if row.code is not None:
            readers = [u.node for u in value.uses() if is_op(u.node, "DequantizeLinear")]
            if not readers:
                continue
            value = readers[0].outputs[0]
        if row.reference.name and value.name:
            found[row.reference.name] = (value.name, row.kept, row.axis)
    return found


def _with_kept_channels(rows: Dataset, pairs: _Pairs) -> tuple[Dataset, _Pairs]:
    """Cut the teacher's inner values to the channels that the student has left."""
    used = {name: pairs[name] for name in rows.inner}
    cut = {name: (kept, axis) for name, (_, kept, axis) in used.items() if kept is not None}
    index = {name: torch.tensor(kept) for name, (kept, _) in cut.items()}
    for side in (rows.training, rows.held) if cut else ():
        for place, row in enumerate(side):
            answers = dict(row.answers)
            for name, (_, axis) in cut.items():
                answers[name] = answers[name].index_select(axis, index[name])
            side[place] = Row(row.feed, answers, row.label)
    return rows, used


def _loss(
    reference: ir.Model,
    student: Student,
    rows: Dataset,
    pairs: Mapping[str, str],
    options: TuneOptions,
) -> Loss:
    """The loss with the scales of the teacher's values; pairs of other shapes are left out."""
    outputs = [
        value.name or ""
        for value in reference.graph.outputs
        if rows.held[0].answers[value.name or ""].is_floating_point()
    ]
    if not outputs and not callable(options.loss):
        raise OptionError("the model has no output of real numbers to compare")
    (first, *_), *_ = batches(rows.held[:1], 1, rows.apart)
    with torch.no_grad():
        values = student(first.feed, list(pairs.values()))
    for name in outputs:
        if values[name].shape != first.answers[name].shape:
            raise OptionError(
                f"output {name!r} is {list(values[name].shape)} in the model and "
                f"{list(first.answers[name].shape)} in the reference: tuning needs the model "
                "that this one was made from"
            )
    inner = [
        (mine, theirs)
        for theirs, mine in pairs.items()
        if values[mine].shape == first.answers[theirs].shape and values[mine].is_floating_point()
    ]
    alike = len({row.form for row in rows.training}) == 1 and rows.apart
    whole: Tensors = {}
    if alike:
        whole = {name: torch.cat([row.answers[name] for row in rows.training]) for name in outputs}
    kind = "mse" if callable(options.loss) else options.loss
    classes = class_outputs(whole, kind, outputs) if alike else {}
    scored = [n for n in outputs if rows.held[0].answers[n].dim() == 2]
    if options.labels is not None and not scored:
        raise OptionError("labels need an output of shape [batch, classes], and there is none")
    return Loss(
        outputs=outputs,
        classes=classes,
        inner=inner,
        variances={n: _variance(rows.training, n) for n in [*outputs, *(t for _, t in inner)]},
        custom=options.loss if callable(options.loss) else None,
        labelled=scored[0] if options.labels is not None else None,
    )


def _variance(rows: Sequence[Row], name: str) -> float:
    """The variance of a teacher's value over (up to 256) rows; above 0."""
    chosen = rows[:: max(1, len(rows) // 256)]
    values = torch.cat([row.answers[name].reshape(-1).float() for row in chosen])
    return max(float(values.var(correction=0)), float(np.finfo(np.float32).tiny))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's own threads, which are the process's: as they were afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
