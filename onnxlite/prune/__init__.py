"""Pruning: zeros in weights (the file compresses better), or whole channels (it runs faster)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import overload

import onnx
import onnx_ir as ir

from onnxlite.model import ModelLike, give_back, load
from onnxlite.prune.choose import Importance
from onnxlite.prune.explain import ChannelReport, GroupRow, explain_channels
from onnxlite.prune.shrink import prune_channels_ir
from onnxlite.prune.weights import Scope, prune_weights_ir
from onnxlite.records import Progress, ReportSink, silent
from onnxlite.samples import SamplesLike

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


@overload
def prune_channels(
    model: onnx.ModelProto,
    *,
    samples: SamplesLike | None = None,
    ratio: float | Mapping[str, float] = 0.3,
    importance: Importance = "l2",
    round_to: int = 8,
    protect: Sequence[str] = (),
    minimum: int = 1,
    seed: int = 0,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto: ...
@overload
def prune_channels(
    model: str | os.PathLike[str] | ir.Model,
    *,
    samples: SamplesLike | None = None,
    ratio: float | Mapping[str, float] = 0.3,
    importance: Importance = "l2",
    round_to: int = 8,
    protect: Sequence[str] = (),
    minimum: int = 1,
    seed: int = 0,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> ir.Model: ...
def prune_channels(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    ratio: float | Mapping[str, float] = 0.3,
    importance: Importance = "l2",
    round_to: int = 8,
    protect: Sequence[str] = (),
    minimum: int = 1,
    seed: int = 0,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto | ir.Model:
    """Remove the least important channels: every layer they touch becomes smaller.

    What goes together (through residual sums, concatenations, reshapes, attention heads) is
    derived from the graph; what must stay is declined with the reason. `explain_channels`
    shows both beforehand. With samples the layers that remain are repaired (`onnxlite.repair`);
    without them expect a large loss of accuracy.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed. Simplify it first.
        samples: unlabelled inputs for the repair, in any form of `SamplesLike`.
        ratio: share of the units of every group to remove, 0 to below 1; or shares by the
            names of groups, which leaves all other groups as they are.
        importance: the units of smallest norm go (`"l1"`, `"l2"`), or any (`"random"`).
        round_to: the channels that stay are a multiple of this where a group is large enough.
            ONNX Runtime's kernels work on blocks of 8 (AVX2) or 16 (AVX-512) channels: with
            odd widths a model with half the work is no faster.
        protect: patterns (`fnmatch`) of node or weight names whose shapes stay.
        minimum: units to keep in every group at least.
        seed: for `"random"`.
        on_report: called with the `StepReport`: old and new shape of every weight.
        progress: called between the stages.

    Returns:
        The smaller model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        OptionError: a value out of range, or a name or pattern that matches nothing.
        SamplesError: the samples do not fit the model.
    """
    result, report = prune_channels_ir(
        load(model),
        samples=samples,
        ratio=ratio,
        importance=importance,
        round_to=round_to,
        protect=protect,
        minimum=minimum,
        seed=seed,
        progress=progress,
    )
    if on_report is not None:
        on_report(report)
    if not report.changed:
        logger.warning("prune_channels changed nothing: %s", report.summary)
    return give_back(model, result)


__all__ = [
    "ChannelReport",
    "GroupRow",
    "explain_channels",
    "prune_channels",
    "prune_channels_ir",
    "prune_weights",
    "prune_weights_ir",
]
