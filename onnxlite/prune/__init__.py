"""Pruning: zeros in weights (the file compresses better), or whole channels (it runs faster)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import overload

import onnx
import onnx_ir as ir

from onnxlite.model import ModelLike, give_back, load
from onnxlite.prune.choose import RoundTo
from onnxlite.prune.explain import ChannelReport, GroupRow, explain_channels
from onnxlite.prune.importance import Importance, ImportanceFunction
from onnxlite.prune.shrink import Repair, prune_channels_ir
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
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    ratio: float | Mapping[str, float] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: RoundTo = "auto",
    protect: Sequence[str] = (),
    minimum: int = 1,
    repair: Repair = "auto",
    seed: int = 0,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto: ...
@overload
def prune_channels(
    model: str | os.PathLike[str] | ir.Model,
    *,
    samples: SamplesLike | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    ratio: float | Mapping[str, float] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: RoundTo = "auto",
    protect: Sequence[str] = (),
    minimum: int = 1,
    repair: Repair = "auto",
    seed: int = 0,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> ir.Model: ...
def prune_channels(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    ratio: float | Mapping[str, float] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: RoundTo = "auto",
    protect: Sequence[str] = (),
    minimum: int = 1,
    repair: Repair = "auto",
    seed: int = 0,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = silent,
) -> onnx.ModelProto | ir.Model:
    """Remove the least important channels: every layer they touch becomes smaller.

    What goes together (through residual sums, concatenations, reshapes, attention heads) is
    derived from the graph; what must stay is declined with the reason. `explain_channels`
    shows both beforehand. Give exactly one of `macs`, `params`, `latency` and `ratio`. The
    first three are reached by taking units where they do least damage for what they save;
    channels that do nothing go first. With samples the layers that remain are repaired
    (`onnxlite.repair`); without them expect a large loss of accuracy.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed. Simplify it first.
        samples: unlabelled inputs, in any form of `SamplesLike`.
        macs: share of the multiply-accumulates to keep: `0.7` keeps 70%.
        params: share of the parameters to keep.
        latency: share of the latency to keep, at batch 1 on this machine. The times of
            layers are measured and cached (`$ONNXLITE_CACHE`), the result is measured against
            the original and corrected.
        ratio: share of the units of every group to remove, 0 to below 1; or shares by the
            names of groups, which leaves all other groups as they are.
        importance: which units go. `"reconstruction"`: those whose loss the layers that read
            them can best make up for, by second moments of the samples; `"energy"`: those
            that add least to these layers; `"l1"`, `"l2"`: of smallest norm; `"bn"`: of
            smallest normalization scale, where one is left in the graph; `"random"`; or a
            function of the name of a group and of its weights' slices, each
            `[units, elements]`, that gives a number per unit. `"auto"` is `"reconstruction"`
            with samples, else `"l2"`.
        round_to: the channels that stay are a multiple of this; where there is a goal, a group
            of no more than that may go to half of it, and on down to 4. ONNX Runtime's float
            kernels work on blocks of 16 (AVX-512), 8 (AVX2) or 4 channels: with other widths
            a model with half the work is hardly faster, but keeps more accuracy for its
            MACs. `"auto"` takes this machine's block.
        protect: patterns (`fnmatch`) of node or weight names whose shapes stay.
        minimum: units to keep in every group at least.
        repair: `"auto"` repairs where there are samples.
        seed: of `"random"`, and of the rows that moments are taken from.
        threads: of ONNX Runtime; None takes all cores, and one where latency is measured.
        on_report: called with the `StepReport`: old and new shape of every weight.
        progress: called as the stages go on.

    Returns:
        The smaller model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        OptionError: a value out of range, a name or pattern that matches nothing, or not
            exactly one goal.
        SamplesError: the samples do not fit the model.
        VerificationError: the result differs from the model with the same channels silenced
            in place.
    """
    result, report = prune_channels_ir(
        load(model),
        samples=samples,
        macs=macs,
        params=params,
        latency=latency,
        ratio=ratio,
        importance=importance,
        round_to=round_to,
        protect=protect,
        minimum=minimum,
        repair=repair,
        seed=seed,
        threads=threads,
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
