"""Pruning: zeros in weights. The file compresses better; ONNX Runtime's speed stays."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import overload

import onnx
import onnx_ir as ir

from onnxlite.model import ModelLike, give_back, load
from onnxlite.prune.weights import Scope, prune_weights_ir
from onnxlite.records import Progress, ReportSink, silent

logger = logging.getLogger(__name__)


@overload
def prune_weights(
    model: onnx.ModelProto,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    scope: Scope = "layer",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto: ...
@overload
def prune_weights(
    model: str | os.PathLike[str] | ir.Model,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    scope: Scope = "layer",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> ir.Model: ...
def prune_weights(
    model: ModelLike,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    scope: Scope = "layer",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto | ir.Model:
    """Set the weights of smallest magnitude to zero, in every layer that multiplies by weights.

    Weights are the constants of Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU and
    RNN nodes, subgraphs included; biases and normalisation parameters are never touched.
    Works tensor by tensor: memory is bounded by the largest tensor, not by the model.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed.
        sparsity: share of weights to be zero afterwards, 0 to below 1. With
            `scope="layer"` each layer gets this share, with `"global"` the model as a
            whole does and layers with small weights lose more.
        threshold: instead, zero every weight with `|w| < threshold`.
        scope: `"layer"` or `"global"`, for `sparsity`.
        include: patterns (`fnmatch`) of node or weight names to prune; empty means all.
        exclude: patterns of names to leave alone.
        on_report: called with the `StepReport`: the achieved sparsity of every layer, and
            what was declined and why.
        progress: called as layers are done.

    Returns:
        The pruned model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        OptionError: neither or both of `sparsity` and `threshold`, a value out of range, or
            a pattern that matches nothing.
        UnsupportedError: a weight holds NaN or infinite values.
    """
    result, report = prune_weights_ir(
        load(model),
        sparsity=sparsity,
        threshold=threshold,
        scope=scope,
        include=include,
        exclude=exclude,
        progress=progress,
    )
    if on_report is not None:
        on_report(report)
    if not report.changed:
        logger.warning("prune_weights changed nothing: %s", report.summary)
    return give_back(model, result)


__all__ = ["prune_weights", "prune_weights_ir"]
