"""Magnitude pruning: the smallest weights become zero, shapes stay.

Zeros do not make ONNX Runtime faster on CPU; they make the file compress. Source of the
criterion: Han et al. 2015.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.graph import describe
from onnxlite.model import unmapped
from onnxlite.ops import Parameter, iter_parameters, spec_of
from onnxlite.prune.select import kth_magnitude, magnitudes, zeroed
from onnxlite.records import Declined, LayerRow, Progress, StepReport, silent

Scope = Literal["layer", "global"]

_STEP = "prune-weights"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def prune_weights_ir(
    model: ir.Model,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    scope: Scope = "layer",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Zero the smallest weights of `model` in place; see `onnxlite.prune_weights`."""
    start = time.perf_counter()
    _check_options(sparsity, threshold, scope)
    layers, declined = _prunable(model, include, exclude)
    rows: list[LayerRow] = []
    if sparsity is not None and scope == "global" and layers:
        limits = _global_limits([p.tensor for p in layers], sparsity)
    else:
        limits = (_layer_limit(p.tensor, sparsity, threshold) for p in layers)
    changed = total = zeros = 0
    for index, (parameter, (limit, ties)) in enumerate(zip(layers, limits, strict=True)):
        progress(_STEP, index, len(layers))
        row = _zero(parameter, limit, ties)
        rows.append(row)
        changed += int(row.values["zeroed"] or 0)
        total += parameter.tensor.size
        zeros += int(row.values["zeros"] or 0)
    progress(_STEP, len(layers), len(layers))
    return model, StepReport(
        step=_STEP,
        changed=changed > 0,
        summary=_summary(changed, zeros, total, len(layers)),
        changes={"weights-zeroed": changed} if changed else {},
        declined=tuple(declined),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _check_options(sparsity: float | None, threshold: float | None, scope: str) -> None:
    if (sparsity is None) == (threshold is None):
        raise OptionError("give either sparsity (share of zeros, 0 to 1) or threshold, not both")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise OptionError(f"sparsity is a share from 0 to below 1, given was {sparsity}")
    if threshold is not None and not (threshold >= 0 and np.isfinite(threshold)):
        raise OptionError(f"threshold is a finite magnitude from 0 on, given was {threshold}")
    if scope not in ("layer", "global"):
        raise OptionError(f"scope is 'layer' or 'global', given was {scope!r}")


def _prunable(
    model: ir.Model, include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Parameter], list[Declined]]:
    """One parameter per weight tensor that may be pruned; shared tensors come once."""
    chosen: dict[ir.Value, Parameter] = {}
    declined: list[Declined] = []
    matched: set[str] = set()
    for parameter in iter_parameters(model):
        if spec_of(parameter.node).macs is None or parameter.value in chosen:
            continue
        names = (parameter.node.name or "", parameter.value.name or "")
        matched.update(p for p in (*include, *exclude) if any(fnmatchcase(n, p) for n in names))
        if include and not _matches(names, include):
            continue
        reason = _refusal(parameter) or ("excluded by name" if _matches(names, exclude) else None)
        if reason:
            declined.append(Declined(_STEP, describe(parameter.node), reason))
        else:
            chosen[parameter.value] = parameter
    if unused := sorted({*include, *exclude} - matched):
        raise OptionError(
            f"no layer with weights matches {', '.join(map(repr, unused))}: patterns are compared "
            "with the names of nodes and of weight tensors"
        )
    return list(chosen.values()), declined


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


def _zero(parameter: Parameter, limit: float, ties: int) -> LayerRow:
    old, value = parameter.tensor, parameter.value
    before = old.size - int(np.count_nonzero(unmapped(old).numpy()))

    def build() -> ir.TensorProtocol:
        array = zeroed(unmapped(old).numpy(), limit, ties)
        return ir.Tensor(array, dtype=old.dtype, name=value.name)

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
    return LayerRow(
        parameter.node.name or "",
        parameter.node.op_type,
        {
            "weight": value.name,
            "shape": "x".join(str(dim) for dim in old.shape),
            "weights": old.size,
            "zeros": zeros,
            "zeroed": zeros - before,
            "sparsity_before": before / old.size,
            "sparsity": zeros / old.size,
        },
    )


def _summary(changed: int, zeros: int, total: int, layers: int) -> str:
    if not layers:
        return "no layer has weights that can be pruned"
    if not changed:
        return f"no weight is below the limit: {zeros} of {total} weights were zero already"
    return f"{zeros} of {total} weights in {layers} layers are zero ({zeros / total:.1%})"
