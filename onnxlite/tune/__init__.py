"""Tuning: train a compressed model to compute what its original does, without labels."""

from __future__ import annotations

import importlib.util
from typing import Any

import onnx_ir as ir

from onnxlite.apply import accepted, check_infinite_inputs, judged_result
from onnxlite.batch_axis import bind
from onnxlite.errors import MissingPackageError
from onnxlite.model import ModelLike, clone, load
from onnxlite.samples import SamplesLike
from onnxlite.step import Result, StepContext, from_options
from onnxlite.tune.options import Labels, Tune, TuneReport

__all__ = ["Tune", "tune", "tune_ir"]


@from_options(Tune, leave_out=("candidate",))
def tune(
    reference: ModelLike,
    candidate: ModelLike,
    samples: SamplesLike,
    *,
    labels: Labels | None = None,
    options: Tune,
    context: StepContext,
) -> Result[Any, TuneReport]:
    """Train a compressed model to compute what its original does (distillation, QAT).

    The ONNX graphs themselves are run, the student's in torch with gradients. Float weights,
    biases and normalizations are learned; zeros of pruned weights stay. Integers behind Q and DQ
    nodes and codes of packed weights are learned with straight-through gradients and scales as
    in LSQ (Esser et al. 2020), and go back into the same nodes: the result has the layers, types
    and kernels that it had. Every fifth sample is held out; the best state there is kept, and
    the model is returned unchanged unless ONNX Runtime finds it closer to the reference there, by
    more than chance.

    Args:
        reference: the model that the candidate was made from.
        candidate: the compressed model: a path, a `ModelProto`, an `ir.Model` or a `Result`;
            it is not changed.
        samples: unlabelled inputs, some hundreds to thousands; all are held in memory, with
            the reference's answers.
        labels: class of each sample, for cross-entropy as well.

    Returns:
        The tuned candidate, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report.

    Raises:
        MissingPackageError: torch is not installed.
        UnsupportedError: an operator of the candidate that torch cannot compute here.
        OptionError: a wrong option, models that do not belong together, or a checkpoint of
            another training.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    model, source = load(reference), load(candidate)
    samples = bind(model, samples, context.batch_axis)
    check_infinite_inputs(model, samples, threads=context.threads)
    result, report = tune_ir(model, clone(source), samples, options, context, labels=labels)
    result, report = accepted(options, source, result, report)
    return judged_result(options, candidate, (model, result), report, samples, context)


def tune_ir(
    reference: ir.Model,
    candidate: ir.Model,
    samples: SamplesLike,
    options: Tune,
    context: StepContext,
    *,
    labels: Labels | None = None,
) -> tuple[ir.Model, TuneReport]:
    """Tune a private copy of a model; see `tune`. Raises `MissingPackageError` without torch."""
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError("tuning needs torch: `pip install 'onnxlite[tune]'`")
    # Torch takes seconds to import, and only tuning needs it.
    from onnxlite.tune import step

    return step.tune_ir(reference, candidate, samples, options, context, labels=labels)
