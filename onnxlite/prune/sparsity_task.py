"""Sparsity task: the weights to prune, and the options of their pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxlite.errors import OptionError
from onnxlite.graph import const_tensor, describe, node_name
from onnxlite.model import unmapped
from onnxlite.normalize import normalize
from onnxlite.ops import Parameter, iter_parameters, spec_of
from onnxlite.patterns import check_patterns, matches
from onnxlite.prune.nm_pattern import Pattern
from onnxlite.prune.options import PrunedWeight, PruneWeights
from onnxlite.records import EXCLUDED, Reason, Skipped
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, sample_stream

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, kw_only=True)
class SparsityTask:
    """A model and its weights to prune; the passes rewrite the model.

    Attributes:
        model: normalized, except for `"magnitude"`.
        options: of the step.
        context: threads and progress.
        samples: unlabelled inputs; None for `"magnitude"`.
        method: how the weights to zero are chosen; `"auto"` is decided.
        scope: how zeros are distributed over layers; `"auto"` is decided.
        pattern: the N:M pattern, or None.
        layers: one parameter per weight tensor that gets zeros.
        skipped: weights that are not pruned, with the reason.
    """

    model: ir.Model
    options: PruneWeights
    context: StepContext
    samples: Samples | None
    method: Literal["magnitude", "wanda", "obc"]
    scope: Literal["layer", "global", "sensitivity"]
    pattern: Pattern | None
    layers: tuple[Parameter, ...]
    skipped: tuple[Skipped, ...]

    @property
    def fraction(self) -> float:
        """Fraction of zeros to reach."""
        if self.pattern is not None:
            return self.pattern.fraction
        return self.options.sparsity or 0.0


def plan_sparsity(
    model: ir.Model, samples: SamplesLike | None, options: PruneWeights, context: StepContext
) -> SparsityTask:
    """Choose method and scope, and find the weights; normalize unless by magnitude.

    Raises:
        OptionError: an option needs samples, or a name pattern matches nothing.
        SamplesError: the samples do not fit the model.
    """
    method, scope = options.method, options.scope
    if samples is None and (scope == "sensitivity" or options.rounds > 1):
        raise OptionError("scope='sensitivity' and rounds need method='obc' or 'wanda' and samples")
    pattern = None if options.pattern is None else Pattern.parse(options.pattern)
    if method == "auto":
        method = "magnitude" if samples is None or options.threshold is not None else "obc"
    if scope == "auto":
        scope = "sensitivity" if method == "obc" and pattern is None else "layer"
    feeds = sample_stream(samples, model, options.limit)
    if method != "magnitude":
        normalize(model)
    layers, skipped = _prunable(model, options, pattern)
    return SparsityTask(
        model=model,
        options=options,
        context=context,
        samples=None if method == "magnitude" else feeds,
        method=method,
        scope=scope,
        pattern=pattern,
        layers=layers,
        skipped=skipped,
    )


def _prunable(
    model: ir.Model, options: PruneWeights, pattern: Pattern | None
) -> tuple[tuple[Parameter, ...], tuple[Skipped, ...]]:
    """Find one parameter per prunable weight tensor; shared tensors come once."""
    include, exclude = options.include, options.exclude
    chosen: dict[ir.Value, Parameter] = {}
    skipped: list[Skipped] = []
    known: list[str] = []
    for parameter in iter_parameters(model):
        if parameter.value in chosen:
            continue
        names = (parameter.node.name or "", parameter.value.name or "")
        known += names
        if include and not matches(names, include):
            continue
        refusal = _refusal(parameter)
        excluded = refusal is None and matches(names, exclude)
        if refusal is None and not excluded and pattern is not None:
            refusal = pattern.refusal(parameter)
        if excluded or refusal:
            reason = EXCLUDED if excluded else Reason("unsupported", refusal or "")
            node = node_name(parameter.node)
            skipped.append(Skipped(options.name(), node, reason.code, reason.message))
        else:
            chosen[parameter.value] = parameter
    check_patterns(
        (*include, *exclude),
        known,
        what="layer with weights",
        compared="the names of nodes and of weight tensors",
    )
    return tuple(chosen.values()), tuple(skipped)


def _refusal(parameter: Parameter) -> str | None:
    if parameter.tensor.dtype not in _FLOATS:
        return f"its weight {parameter.value.name!r} is {parameter.tensor.dtype}, not float"
    if len(parameter.tensor.shape) < 2:
        return f"its weight {parameter.value.name!r} has fewer than two axes"
    if not parameter.tensor.size:
        return f"its weight {parameter.value.name!r} is empty"
    others = [
        use.node for use in parameter.value.uses() if use.idx not in spec_of(use.node).weights
    ]
    if others:
        return f"its weight {parameter.value.name!r} is also data of {describe(others[0])}"
    return None


def count_zeros(parameter: Parameter) -> int:
    """Count the zeros of a weight in its present state."""
    tensor = const_tensor(parameter.value)
    assert tensor is not None
    return int(tensor.size) - int(np.count_nonzero(unmapped(tensor).numpy()))


def weight_row(parameter: Parameter, before: int, zeros: int) -> PrunedWeight:
    """Make the report row of a weight from its numbers of zeros."""
    tensor = parameter.tensor
    return PrunedWeight(
        name=parameter.node.name or "",
        op_type=parameter.node.op_type,
        weight=parameter.value.name or "",
        shape=tuple(tensor.shape.numpy()),
        weights=tensor.size,
        zeros=zeros,
        zeroed=zeros - before,
        sparsity_before=before / tensor.size,
        sparsity=zeros / tensor.size,
    )
