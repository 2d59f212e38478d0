"""Pruning of weights (zeros compress well) and of channels (smaller layers)."""

from __future__ import annotations

from typing import Any

from onnxlite.apply import apply_step, as_result, judged_step, run_step
from onnxlite.model import ModelLike, load
from onnxlite.prune.options import (
    PruneChannels,
    PruneChannelsReport,
    PruneWeights,
    PruneWeightsReport,
    SparseStorage,
    SparseStorageReport,
)
from onnxlite.prune.report import ChannelReport, GroupRow, explain_channels
from onnxlite.samples import SamplesLike
from onnxlite.step import Result, StepContext, from_options

__all__ = [
    "ChannelReport",
    "GroupRow",
    "PruneChannels",
    "PruneWeights",
    "SparseStorage",
    "explain_channels",
    "prune_channels",
    "prune_weights",
    "sparse_storage",
]


@from_options(PruneWeights)
def prune_weights(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: PruneWeights,
    context: StepContext,
) -> Result[Any, PruneWeightsReport]:
    """Set weights to zero, in every layer that multiplies by weights and in embeddings.

    Weights are the constants of Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU, RNN and
    Gather nodes, subgraphs included; biases and normalization parameters get no zeros. Give
    exactly one of `sparsity`, `threshold` and `pattern`.

    With samples, layer after layer is fitted to what the original computes, and the weights
    that stay compensate for the zeros; biases may change. Without samples the smallest weights
    become zero, tensor by tensor: memory is bounded by the largest tensor, not by the model.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: unlabelled inputs, some hundreds, for `"wanda"` and `"obc"`.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the report with
        the sparsity of every layer and what was skipped.

    Raises:
        OptionError: not exactly one of `sparsity`, `threshold` and `pattern`, a value out of
            range, a method without samples, or a name pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        UnsupportedError: a weight holds NaN or infinite values.
    """
    return run_step(options, model, samples, context)


@from_options(PruneChannels)
def prune_channels(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: PruneChannels,
    context: StepContext,
) -> Result[Any, PruneChannelsReport]:
    """Remove the least important channels: every layer they belong to becomes smaller.

    Units that go together (through residual sums, concatenations, reshapes, attention heads)
    are derived from the graph; units that must stay are skipped with the reason.
    `explain_channels` shows both beforehand. Give exactly one of `macs`, `params`, `latency`,
    `remove` and `widths`. The first three are reached by removing the units that do least
    damage for what they save. With samples the layers that remain are repaired
    (`onnxlite.repair`); without them expect a large loss of accuracy.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed. Simplify
            it first.
        samples: unlabelled inputs, in any form of `SamplesLike`.

    Returns:
        The smaller model, a `ModelProto` if one came in, otherwise an `ir.Model`, and the
        report with the old and new shape of every weight.

    Raises:
        OptionError: a value out of range, a name or pattern that matches nothing, or not
            exactly one goal.
        SamplesError: the samples do not fit the model.
        VerificationError: the result differs from the model with the same channels set to
            zero in place.
    """
    return judged_step(options, model, samples, context)


@from_options(SparseStorage)
def sparse_storage(
    model: ModelLike, *, options: SparseStorage, context: StepContext
) -> Result[Any, SparseStorageReport]:
    """Store weights that are mostly zeros as sparse initializers, where that is smaller.

    A float32 weight gets smaller above 67% of zeros. An `ir.Model` stays dense in memory and
    is written sparse by `save`. Do it last: onnx's strict shape inference (of onnx 1.23) fails
    at a Conv whose weight is sparse, and other tools may not read sparse initializers.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.

    Returns:
        The model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of the input
        if no weight gets smaller or ONNX Runtime refuses the result. The report has the size
        of every weight in both forms, and of the file: as it is, zipped and, with the package
        `zstandard`, compressed by it.
    """
    return as_result(model, *apply_step(options, load(model), None, context))
