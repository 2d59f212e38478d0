"""Tuning: a compressed model is trained to compute what its original does, without labels."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxlite.errors import MissingPackageError
from onnxlite.model import ModelLike, in_kind, load
from onnxlite.records import Progress, ReportSink, StepReport, announce, no_progress
from onnxlite.samples import SamplesLike
from onnxlite.step import StepContext
from onnxlite.tune.options import Labels, TuneOptions

logger = logging.getLogger(__name__)


@in_kind
def tune(
    model: ModelLike,
    reference: ModelLike,
    samples: SamplesLike,
    *,
    steps: int | None = None,
    time_limit: float | None = None,
    loss: str | Callable[..., Any] = "auto",
    labels: Labels | None = None,
    lr: float | None = None,
    batch: int = 32,
    inner: bool = True,
    blocks: bool = True,
    vary: bool = False,
    limit: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Train a compressed model to compute what its original does (distillation, QAT).

    The ONNX graphs themselves are run, the student's in torch with gradients. Float weights,
    biases and normalisations are learned; zeros of pruned weights stay. Integers behind Q and DQ
    nodes and codes of packed weights are learned with straight-through gradients and scales as
    in LSQ (Esser et al. 2020), and go back into the same nodes: the result has the layers, types
    and kernels that it had. Every fifth sample is held out; the best state there is kept, and
    the model is returned unchanged unless ONNX Runtime finds it closer to the reference there, by
    more than chance.

    Args:
        model: the compressed model; a path, a `ModelProto` or an `ir.Model`, not changed.
        reference: the model that it was made from.
        samples: unlabelled inputs, some hundreds to thousands; all are held in memory, with
            the reference's answers.
        steps: of the optimizer; default: 20 passes over the samples, 300 to 5,000 steps.
        time_limit: seconds of training at most; the learning rate follows it.
        loss: `"mse"`: squared error over variance; `"kl"`: that, and the divergence of class
            probabilities; `"auto"`: `"kl"` where an output holds scores of classes. Or a
            function of the outputs of student and reference, dictionaries of tensors by
            name, that gives a tensor of one number.
        labels: class of each sample, for cross-entropy as well.
        lr: learning rate, relative to the typical value of each tensor; by default short
            trials choose it.
        batch: samples per step.
        inner: compare inner layers, too.
        blocks: before the whole, train one part after the other to meet the inner values.
        vary: train on mixed, shifted and mirrored inputs as well, which the reference answers
            like real ones; inputs that are not real numbers stay as they are.
        limit: use at most this many samples.
        seed: of the order of samples.
        threads: of torch and ONNX Runtime; None leaves them to choose.
        checkpoint: a file that the state of training is written to, every half minute and when
            `progress` raises. If it is there, training goes on from it; it is removed in the end.
        on_report: called with the `StepReport`.
        progress: called after every step, with the loss and the time that is left; raising from
            it ends the training.

    Returns:
        The tuned model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        MissingPackageError: torch is not installed.
        UnsupportedError: an operator of `model` that torch cannot compute here.
        OptionError: an option out of range, models that do not belong together, or a checkpoint
            of another training.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    options = TuneOptions(
        steps=steps,
        time_limit_s=time_limit,
        loss=loss,
        lr=lr,
        batch_size=batch,
        inner=inner,
        blocks=blocks,
        augment=vary,
        limit=limit,
        seed=seed,
        checkpoint=checkpoint,
    )
    context = StepContext(threads=threads, progress=progress)
    models = load(reference), load(model)
    result, report = tune_ir(*models, samples, options, context, labels=labels)
    announce(report, on_report, logger)
    return result


def tune_ir(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    options: TuneOptions,
    context: StepContext,
    *,
    labels: Labels | None = None,
) -> tuple[ir.Model, StepReport]:
    """Tune a private copy of a model; see `tune`. Raises `MissingPackageError` without torch."""
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError("tuning needs torch: `pip install 'onnxlite[tune]'`")
    # Torch takes seconds to import, and only tuning needs it.
    from onnxlite.tune import step

    return step.tune_ir(reference, candidate, samples, options, context, labels=labels)


__all__ = ["TuneOptions", "tune", "tune_ir"]
