"""Repair: fit the layers of a compressed model to its original, without labels or gradients."""

from __future__ import annotations

from typing import Any

from onnxlite.apply import accepted, check_infinite_inputs, judged_result
from onnxlite.batch_axis import bind
from onnxlite.model import ModelLike, clone, load
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.options import Repair, RepairReport
from onnxlite.repair.step import repair_ir
from onnxlite.samples import SamplesLike
from onnxlite.step import Result, StepContext, from_options

__all__ = ["Repair", "repair", "repair_ir"]


@from_options(Repair, leave_out=("candidate",))
def repair(
    reference: ModelLike,
    candidate: ModelLike,
    samples: SamplesLike,
    *,
    options: Repair,
    context: StepContext,
) -> Result[Any, RepairReport]:
    """Fit the layers of a pruned or rounded model to the outputs of the original's layers.

    Layer by layer, in topological order, the original's output is regressed on the input
    that the layer has in the compressed model. Shapes, zeros and dead channels stay. A layer
    is changed only if its error falls on samples that were not used to fit it, and the model
    only if its outputs are not further from the original's on such samples.

    Args:
        reference: the model that the candidate was made from. Layers are matched by the
            lineage that steps record, or by the names of values and nodes.
        candidate: the compressed model: a path, a `ModelProto`, an `ir.Model` or a `Result`;
            it is not changed.
        samples: unlabelled inputs; a few hundred are enough.

    Returns:
        The repaired candidate, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report with each layer's error before and after.

    Raises:
        OptionError: a wrong option, a pattern that matches nothing, or a reference with other
            inputs.
        VerificationError: a reference with other outputs.
        SamplesError: the samples do not fit the reference.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    fits = FitOptions(repair=options, threads=context.threads)
    model, source = load(reference), load(candidate)
    samples = bind(model, samples, context.batch_axis)
    check_infinite_inputs(model, samples, threads=context.threads)
    result, report = repair_ir(model, clone(source), samples, fits, progress=context.progress)
    result, report = accepted(options, source, result, report)
    return judged_result(options, candidate, (model, result), report, samples, context)
