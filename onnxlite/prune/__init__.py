"""Pruning: zeros in weights (the file compresses better), or whole channels (it runs faster)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxlite.model import ModelLike, in_kind, load
from onnxlite.prune.channel_step import Repair, prune_channels_ir
from onnxlite.prune.eligibility import RoundTo
from onnxlite.prune.importance import Importance, ImportanceFunction
from onnxlite.prune.report import ChannelReport, GroupRow, explain_channels
from onnxlite.prune.weight_step import Scope, SparseMethod, prune_weights_ir
from onnxlite.records import Progress, ReportSink, announce, no_progress
from onnxlite.samples import SamplesLike

logger = logging.getLogger(__name__)


@in_kind
def prune_weights(
    model: ModelLike,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    method: SparseMethod = "auto",
    samples: SamplesLike | None = None,
    scope: Scope = "auto",
    steps: int = 1,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Set weights to zero, in every layer that multiplies by weights and in embeddings.

    Weights are the constants of Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU, RNN and
    Gather nodes, subgraphs included; biases and normalisation parameters get no zeros. Give
    exactly one of `sparsity`, `threshold` and `pattern`.

    With samples, layer after layer is fitted to what the original computes, and the weights
    that stay make up for the zeros; biases may change. Without samples the smallest weights
    become zero, tensor by tensor: memory is bounded by the largest tensor, not by the model.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed.
        sparsity: share of weights to be zero afterwards, 0 to below 1.
        threshold: instead, zero every weight with `|w| < threshold`.
        pattern: instead, `"N:M"`: of every M weights that an output adds up one after the other
            (input channels of a convolution, rows of a matrix) at most N are not zero. Weights
            whose sum is no multiple of M are left alone.
        method: `"magnitude"`: the smallest weights; `"wanda"`: the smallest products of weight
            and norm of its input, output by output, nothing else changes (Sun et al. 2023);
            `"obc"`: chosen and made up for by second moments of the inputs (Frantar & Alistarh
            2022 and 2023); `"auto"`: `"obc"` with samples, else `"magnitude"`.
        samples: unlabelled inputs, some hundreds, for `"wanda"` and `"obc"`.
        scope: `"layer"`: each layer gets this share; `"global"`: the model as a whole does, by
            one threshold of magnitude; `"sensitivity"`: the model as a whole does, each layer
            by what its zeros do to the outputs. `"auto"` is `"sensitivity"` for `"obc"` and
            `"layer"` otherwise.
        steps: of `"obc"`: reach the share in so many rounds, with a fit in each.
        include: patterns (`fnmatch`) of node or weight names to prune; empty means all.
        exclude: patterns of names to leave alone.
        limit: use at most this many samples.
        threads: of ONNX Runtime; None takes all cores.
        on_report: called with the `StepReport`: the achieved sparsity of every layer, and
            what was skipped and why.
        progress: called as layers are done.

    Returns:
        The pruned model: a `ModelProto` if one came in, otherwise an `ir.Model`.

    Raises:
        OptionError: not exactly one of `sparsity`, `threshold` and `pattern`, a value out of
            range, a method without samples, or a name pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        UnsupportedError: a weight holds NaN or infinite values.
    """
    result, report = prune_weights_ir(
        load(model),
        sparsity=sparsity,
        threshold=threshold,
        pattern=pattern,
        method=method,
        samples=samples,
        scope=scope,
        steps=steps,
        include=include,
        exclude=exclude,
        limit=limit,
        threads=threads,
        progress=progress,
    )
    announce(report, on_report, logger)
    return result


@in_kind
def prune_channels(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    ratio: float | Mapping[str, float] | None = None,
    widths: Mapping[str, int] | None = None,
    importance: Importance | ImportanceFunction = "auto",
    round_to: RoundTo = "auto",
    protect: Sequence[str] = (),
    minimum: int = 1,
    branches: bool = True,
    repair: Repair = "auto",
    seed: int = 0,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Remove the least important channels: every layer they touch becomes smaller.

    What goes together (through residual sums, concatenations, reshapes, attention heads) is
    derived from the graph; what must stay is skipped with the reason. `explain_channels`
    shows both beforehand. Give exactly one of `macs`, `params`, `latency`, `ratio` and
    `widths`. The first three are reached by taking units where they do least damage for what
    they save; channels that do nothing go first. With samples the layers that remain are
    repaired (`onnxlite.repair`); without them expect a large loss of accuracy.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed. Simplify it first.
        samples: unlabelled inputs, in any form of `SamplesLike`.
        macs: share of the multiply-accumulates to keep: `0.7` keeps 70%.
        params: share of the parameters to keep.
        latency: share of the latency to keep, at batch 1 on this machine. The times of
            layers are measured and cached (`$ONNXLITE_CACHE`), the result is measured against
            the original and corrected; what was chosen is kept there, too.
        ratio: share of the units of every group to remove, 0 to below 1; or shares by the
            names of groups, which leaves all other groups as they are.
        widths: how many units groups keep, by their names; all others stay. A recipe holds
            what `latency` chose in this form, so that it needs no measuring again.
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
        branches: whole branches beside a shortcut may go, with all their units: residual
            blocks, feed-forward parts, attention. They do where the goal is far: with samples
            and `repair`, where the repaired model without one is clearly closer to the
            original on samples that neither saw. That repairs a few candidates more.
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
        widths=widths,
        importance=importance,
        round_to=round_to,
        protect=protect,
        minimum=minimum,
        branches=branches,
        repair=repair,
        seed=seed,
        threads=threads,
        progress=progress,
    )
    announce(report, on_report, logger)
    return result


__all__ = [
    "ChannelReport",
    "GroupRow",
    "explain_channels",
    "prune_channels",
    "prune_channels_ir",
    "prune_weights",
    "prune_weights_ir",
]
