"""Zeros in weights: the smallest ones, or with samples those that others can make up for.

Zeros do not make ONNX Runtime faster on CPU; they make the file compress. Magnitude (Han et
al. 2015) works tensor by tensor; what needs samples is in `compensated`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.graph import const_tensor, describe, node_name
from onnxlite.model import unmapped
from onnxlite.normalize import normalize
from onnxlite.ops import Parameter, iter_parameters, spec_of
from onnxlite.prune.magnitude import Pattern, kth_magnitude, magnitudes, summed_axis, zeroed
from onnxlite.prune.options import PruneWeights, Scope
from onnxlite.prune.sparsegpt import SparsityOptions, prune_sparsegpt
from onnxlite.records import EXCLUDED, LayerRow, Progress, Reason, Skipped, StepReport
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.step import StepContext

_STEP = "prune-weights"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def prune_weights_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: PruneWeights,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Set weights of `model`, which the step owns, to zero; see `onnxlite.prune_weights`."""
    start = time.perf_counter()
    sparsity, threshold = options.sparsity, options.threshold
    method, scope = options.method, options.scope
    if samples is None and (scope == "sensitivity" or options.rounds > 1):
        raise OptionError("scope='sensitivity' and rounds need method='obc' or 'wanda' and samples")
    blocks = None if options.pattern is None else Pattern.parse(options.pattern)
    if method == "auto":
        method = "magnitude" if samples is None or threshold is not None else "obc"
    if scope == "auto":
        scope = "sensitivity" if method == "obc" and blocks is None else "layer"
    feeds = None if samples is None else Samples(samples, input_specs(model), limit=options.limit)
    if method != "magnitude":
        normalize(model)
    layers, skipped = _prunable(model, options.include, options.exclude, blocks)
    if method == "magnitude" or not layers or feeds is None:
        rows = _smallest_zero(model, layers, sparsity, threshold, blocks, scope, context.progress)
    else:
        before = [(parameter, _zeros(parameter)) for parameter in layers]
        choice = SparsityOptions(
            share=blocks.share if blocks is not None else sparsity or 0.0,
            pattern=blocks,
            scope=scope,
            method=method,
            steps=options.rounds,
            threads=context.threads,
        )
        skipped += prune_sparsegpt(model, layers, feeds, choice, context.progress)
        rows = [_row(parameter, zeros, _zeros(parameter)) for parameter, zeros in before]
    changed = sum(int(row.values["zeroed"] or 0) for row in rows)
    total = sum(parameter.tensor.size for parameter in layers)
    zeros = sum(int(row.values["zeros"] or 0) for row in rows)
    return model, StepReport(
        step=_STEP,
        changed=changed > 0,
        summary=_summary(changed, zeros, total, len(layers), method),
        changes={"weights-zeroed": changed} if changed else {},
        skipped=tuple(skipped),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _smallest_zero(
    model: ir.Model,
    layers: Sequence[Parameter],
    sparsity: float | None,
    threshold: float | None,
    pattern: Pattern | None,
    scope: Scope,
    progress: Progress,
) -> list[LayerRow]:
    """Tensor by tensor; weights that lie on disk stay there until they are written."""
    rows: list[LayerRow] = []
    if pattern is not None:
        for index, parameter in enumerate(layers):
            progress(_STEP, index, len(layers))
            axis = summed_axis(parameter)
            assert axis is not None
            rows.append(_replaced(parameter, partial(pattern.zeroed, axis=axis)))
        progress(_STEP, len(layers), len(layers))
        return rows
    if sparsity is not None and scope == "global" and layers:
        limits = _global_limits([p.tensor for p in layers], sparsity)
    else:
        limits = (_layer_limit(p.tensor, sparsity, threshold) for p in layers)
    for index, (parameter, (limit, ties)) in enumerate(zip(layers, limits, strict=True)):
        progress(_STEP, index, len(layers))
        rows.append(_replaced(parameter, partial(zeroed, threshold=limit, ties=ties)))
    progress(_STEP, len(layers), len(layers))
    return rows


def _prunable(
    model: ir.Model,
    include: Sequence[str],
    exclude: Sequence[str],
    pattern: Pattern | None,
) -> tuple[list[Parameter], list[Skipped]]:
    """One parameter per weight tensor that may be pruned; shared tensors come once."""
    chosen: dict[ir.Value, Parameter] = {}
    skipped: list[Skipped] = []
    matched: set[str] = set()
    for parameter in iter_parameters(model):
        if parameter.value in chosen:
            continue
        names = (parameter.node.name or "", parameter.value.name or "")
        matched.update(p for p in (*include, *exclude) if any(fnmatchcase(n, p) for n in names))
        if include and not _matches(names, include):
            continue
        refusal = _refusal(parameter)
        excluded = refusal is None and _matches(names, exclude)
        if refusal is None and not excluded and pattern is not None:
            refusal = pattern.refusal(parameter)
        if excluded or refusal:
            reason = EXCLUDED if excluded else Reason("unsupported", refusal or "")
            node = node_name(parameter.node)
            skipped.append(Skipped(_STEP, node, reason.code, reason.message))
        else:
            chosen[parameter.value] = parameter
    if unused := sorted({*include, *exclude} - matched):
        raise OptionError(
            f"no layer with weights matches {', '.join(map(repr, unused))}: patterns are compared "
            "with the names of nodes and of weight tensors"
        )
    return list(chosen.values()), skipped


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _refusal(parameter: Parameter) -> str | None:
    if parameter.tensor.dtype not in _FLOATS:
        return f"its weight {parameter.value.name!r} is {parameter.tensor.dtype}, not float"
    if len(parameter.tensor.shape) < 2:
        return f"its weight {parameter.value.name!r} has less than two axes"
    if not parameter.tensor.size:
        return f"its weight {parameter.value.name!r} is empty"
    others = [
        use.node for use in parameter.value.uses() if use.idx not in spec_of(use.node).weights
    ]
    if others:
        return f"its weight {parameter.value.name!r} is also data of {describe(others[0])}"
    return None


def _layer_limit(
    tensor: ir.TensorProtocol, sparsity: float | None, threshold: float | None
) -> tuple[float, int]:
    """The magnitude below which weights of one tensor go, and how many equal to it."""
    if threshold is not None:
        return threshold, 0
    assert sparsity is not None
    count = round(sparsity * tensor.size)
    if not count:
        return 0.0, 0
    return kth_magnitude(lambda: [_finite(tensor)], count)


def _global_limits(
    tensors: Sequence[ir.TensorProtocol], sparsity: float
) -> Iterator[tuple[float, int]]:
    count = round(sparsity * sum(tensor.size for tensor in tensors))
    if not count:
        yield from ((0.0, 0) for _ in tensors)
        return
    limit, ties = kth_magnitude(lambda: (_finite(tensor) for tensor in tensors), count)
    for tensor in tensors:
        equal = int((magnitudes(unmapped(tensor).numpy()) == limit).sum())
        yield limit, min(ties, equal)
        ties -= min(ties, equal)


def _finite(tensor: ir.TensorProtocol) -> NDArray[Any]:
    array = unmapped(tensor).numpy()
    if not np.isfinite(array).all():
        raise UnsupportedError(
            f"weight {tensor.name!r} {list(array.shape)} holds NaN or infinite values: "
            "the model is damaged, export it again"
        )
    return array


def _zeros(parameter: Parameter) -> int:
    tensor = const_tensor(parameter.value)
    assert tensor is not None
    return int(tensor.size) - int(np.count_nonzero(unmapped(tensor).numpy()))


def _replaced(parameter: Parameter, rewrite: Callable[[NDArray[Any]], NDArray[Any]]) -> LayerRow:
    """Put the rewritten weight in the place of the old one, if it has more zeros."""
    old, value = parameter.tensor, parameter.value
    before = old.size - int(np.count_nonzero(unmapped(old).numpy()))

    def build() -> ir.TensorProtocol:
        return ir.Tensor(rewrite(unmapped(old).numpy()), dtype=old.dtype, name=value.name)

    new = build()
    zeros = old.size - int(np.count_nonzero(new.numpy()))
    if zeros != before:
        # A weight that was mapped from disk is computed again when it is needed, so that
        # a model larger than memory can be pruned.
        lazy = isinstance(old, ir.ExternalTensor | ir.LazyTensor)
        value.const_value = (
            ir.LazyTensor(build, old.dtype, old.shape, name=value.name)  # type: ignore[arg-type]
            if lazy
            else new
        )
    return _row(parameter, before, zeros)


def _row(parameter: Parameter, before: int, zeros: int) -> LayerRow:
    tensor = parameter.tensor
    return LayerRow(
        parameter.node.name or "",
        parameter.node.op_type,
        {
            "weight": parameter.value.name,
            "shape": "x".join(str(dim) for dim in tensor.shape),
            "weights": tensor.size,
            "zeros": zeros,
            "zeroed": zeros - before,
            "sparsity_before": before / tensor.size,
            "sparsity": zeros / tensor.size,
        },
    )


def _summary(changed: int, zeros: int, total: int, layers: int, method: str) -> str:
    if not layers:
        return "no layer has weights that can be pruned"
    if not changed:
        return f"no weight is below the limit: {zeros} of {total} weights were zero already"
    return (
        f"{zeros} of {total} weights in {layers} layers are zero ({zeros / total:.1%}), by {method}"
    )
