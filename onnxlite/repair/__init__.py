"""Repair: fit the layers of a compressed model to its original, without labels or gradients."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.model import ModelLike, clone, in_kind, load
from onnxlite.records import Progress, ReportSink, announce, no_progress
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.regression import Method
from onnxlite.repair.step import repair_ir
from onnxlite.samples import SamplesLike

logger = logging.getLogger(__name__)


@in_kind
def repair(
    model: ModelLike,
    reference: ModelLike,
    samples: SamplesLike,
    *,
    method: Method = "auto",
    ridge: float = 1e-3,
    max_rows: int = 12288,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Give the layers of a pruned or rounded model the weights that best restore the original.

    Layer by layer, in topological order, the original's output is regressed on the input
    that the layer has in the compressed model. Shapes, zeros and dead channels stay. A layer
    is changed only if its error falls on samples that were not used to fit it, and the model
    only if its outputs are not further from the original's on such samples.

    Args:
        model: the compressed model; a path, a `ModelProto` or an `ir.Model`, not changed.
        reference: the model that it was made from. Layers are matched by the lineage that
            steps record, or by the names of values and nodes.
        samples: unlabelled inputs; a few hundred are enough.
        method: `"full"` fits every weight that is not zero, `"affine"` a factor and a bias
            per output channel (weights stay on their grid), `"bias"` a bias only; `"auto"`
            takes for each layer what does best on samples held out.
        ridge: how strongly weights are pulled to their present values, as a share of the
            mean of the input's second moments.
        max_rows: output positions per layer that are fitted, at random.
        include: patterns (`fnmatch`) of node or weight names to repair; empty means all.
        exclude: patterns of names to leave alone.
        limit: use at most this many samples.
        threads: of ONNX Runtime; None takes all cores.
        on_report: called with the `StepReport`: each layer's error before and after.
        progress: called as layers are done.

    Returns:
        The repaired model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        OptionError: an option out of range, a pattern that matches nothing, or a reference
            with other inputs or outputs.
        SamplesError: the samples do not fit the reference.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    result, report = repair_ir(
        load(reference),
        clone(load(model)),
        samples,
        FitOptions(method=method, ridge=ridge, max_rows=max_rows, limit=limit, threads=threads),
        include=include,
        exclude=exclude,
        progress=progress,
    )
    announce(report, on_report, logger)
    return result


__all__ = ["repair", "repair_ir"]
