"""Tuning as a step: the teacher's answers, training, and the check in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import torch

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.analysis.value_matching import match_values
from onnxlite.errors import OptionError
from onnxlite.graph import is_op
from onnxlite.inputs import feed_size, input_specs
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext
from onnxlite.tune.dataset import Dataset, Row, make_dataset
from onnxlite.tune.losses import make_loss
from onnxlite.tune.optimizer import Distillation
from onnxlite.tune.options import Labels, Tune, TuneChanges, TuneReport
from onnxlite.tune.significance import chance_of, gained, losses_of
from onnxlite.tune.student import Student
from onnxlite.tune.train import Training, train


def tune_ir(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    options: Tune,
    context: StepContext,
    *,
    labels: Labels | None = None,
) -> tuple[ir.Model, TuneReport]:
    """Tune a compressed model, which is not changed; see `onnxlite.tune`.

    Args:
        reference: the model that it was made from.
        candidate: the compressed model. Where nothing is gained a copy of it comes back.
        samples: unlabelled inputs.
        options: of the training.
        context: threads and progress.
        labels: class of each sample.
    """
    run = _Run(clone(reference), clone(candidate), context)
    normalize(run.reference)
    infer_shapes(run.reference)
    _check_pair(run.reference, run.candidate)
    with _torch_threads(context.threads):
        student = Student(run.candidate, run.reference)
        if not student.constants:
            return run.unchanged("the model has no constant that can be learned")
        task = _prepare(run, student, samples, options, labels)
        training = train(task)
        held_out = f"{len(task.data.held_out)} samples held out"
        if not gained(training.before, training.best):
            return run.unchanged(
                f"{training.steps} steps at rate {training.rate:g} did not get closer to the "
                f"reference on {held_out} (loss {training.before:.4g})"
            )
        return _checked(run, task, training, held_out)


@dataclass(frozen=True)
class _Run:
    """The models of one tuning, copies of those that came in."""

    reference: ir.Model
    candidate: ir.Model
    context: StepContext
    start: float = field(default_factory=time.perf_counter)

    def unchanged(self, reason: str) -> tuple[ir.Model, TuneReport]:
        """Return the model as it came in."""
        report = TuneReport(changed=False, summary=reason, seconds=self.seconds)
        return self.candidate, report

    @property
    def seconds(self) -> float:
        """Wall-clock time so far."""
        return time.perf_counter() - self.start


def _prepare(
    run: _Run,
    student: Student,
    samples: SamplesLike,
    options: Tune,
    labels: Labels | None,
) -> Distillation:
    """Get the teacher's answers and make the loss."""
    pairs = inner_pairs(run.reference, student.model) if options.inner else {}
    stream = Samples(samples, input_specs(run.reference), batch_size=1, limit=options.limit)
    classes = None if labels is None else _classes(labels, stream)
    data = make_dataset(
        run.reference,
        stream,
        list(pairs),
        labels=classes,
        augmented=options.augment,
        seed=options.seed,
        threads=run.context.threads,
    )
    if classes is not None and not data.batchable and len(classes) != data.count:
        raise OptionError("labels need samples that are fed one by one")
    pairs = {name: pairs[name] for name in data.inner}
    data = _with_kept_channels(data, pairs)
    inner = {theirs: pair.mine for theirs, pair in pairs.items()}
    loss = make_loss(student, data, inner, options.loss, labelled=classes is not None)
    return Distillation(student, loss, data, options, run.context.progress)


def _checked(
    run: _Run, task: Distillation, training: Training, held_out: str
) -> tuple[ir.Model, TuneReport]:
    """Keep the tuned model if ONNX Runtime finds it better by more than chance."""
    result = task.student.written()
    before, after = (_losses(side, task, run.context.threads) for side in (run.candidate, result))
    old, new = float(before.mean()), float(after.mean())
    change = f"on {held_out}, in ONNX Runtime: loss {old:.4g} -> {new:.4g}"
    if not gained(old, new):
        return run.unchanged(f"the tuned model is not better {change}")
    if (chance := chance_of(before, after)) > old - new:
        change += f", and a difference of {chance:.2g} may be chance"
        return run.unchanged(f"the tuned model is not clearly better {change}")
    rows = len(task.data.training)
    summary = f"{training.steps} steps at rate {training.rate:g} on {rows} rows; {change}"
    return result, TuneReport(
        changed=True,
        summary=summary,
        changes=sum((item.counted for item in task.student.constants), TuneChanges()),
        hold_out=task.data.hold_out,
        seconds=run.seconds,
    )


def _losses(model: ir.Model, task: Distillation, threads: int | None) -> np.ndarray:
    size = task.options.batch_size
    return losses_of(model, task.loss, task.data, batch_size=size, threads=threads)


def _check_pair(reference: ir.Model, candidate: ir.Model) -> None:
    for what in ("inputs", "outputs"):
        names = [{v.name for v in getattr(m.graph, what)} for m in (candidate, reference)]
        if names[0] != names[1]:
            raise OptionError(
                f"the model's {what} are {sorted(map(str, names[0]))} and the reference's "
                f"{sorted(map(str, names[1]))}: tuning needs the model that this one was made from"
            )


def _classes(labels: Labels, samples: Samples) -> list[int]:
    """Check that there is one label for each sample."""
    count = sum(feed_size(feed, samples.inputs) for feed in samples)
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise OptionError(
            f"labels of shape {list(array.shape)} and type {array.dtype} for {count} samples: "
            "give one whole number per sample"
        )
    return [int(label) for label in array]


@dataclass(frozen=True)
class InnerPair:
    """A value of the student that stands for one of the teacher.

    Attributes:
        mine: name of the student's value.
        kept: the teacher's channels that the student has left; None means all.
        axis: of the channels.
    """

    mine: str
    kept: tuple[int, ...] | None
    axis: int


def inner_pairs(reference: ir.Model, student: ir.Model) -> dict[str, InnerPair]:
    """Find the inner values that both models have, by the teacher's name."""
    shaped = clone(student)
    infer_shapes(shaped)
    inputs = {v.name or "": v.name or "" for v in reference.graph.inputs}
    outputs = {v.name for v in reference.graph.outputs}
    found: dict[str, InnerPair] = {}
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
            found[row.reference.name] = InnerPair(value.name, row.kept, row.axis)
    return found


def _with_kept_channels(data: Dataset, pairs: Mapping[str, InnerPair]) -> Dataset:
    """Cut the teacher's inner values to the channels that the student has left."""
    cut = {
        name: (torch.tensor(pair.kept), pair.axis)
        for name, pair in pairs.items()
        if pair.kept is not None
    }

    def kept(row: Row) -> Row:
        chosen = {n: row.answers[n].index_select(axis, index) for n, (index, axis) in cut.items()}
        return replace(row, answers={**row.answers, **chosen})

    if not cut:
        return data
    return replace(
        data, training=list(map(kept, data.training)), held_out=list(map(kept, data.held_out))
    )


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Set the threads of torch, which are the process's, within the context."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
