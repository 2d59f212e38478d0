"""The step that makes a model's layers smaller: choose units, remove them, report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.ops import Ids, iter_parameters
from onnxlite.prune.channels import remove_units
from onnxlite.prune.choose import Importance, choose_units
from onnxlite.records import Declined, LayerRow, Progress, StepReport, silent
from onnxlite.repair import repair_ir
from onnxlite.runtime import check_loads
from onnxlite.samples import SamplesLike

_STEP = "prune-channels"


def prune_channels_ir(
    model: ir.Model,
    *,
    samples: SamplesLike | None = None,
    ratio: float | Mapping[str, float] = 0.3,
    importance: Importance = "l2",
    round_to: int = 8,
    protect: Sequence[str] = (),
    minimum: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Remove units from `model` in place; see `onnxlite.prune_channels`."""
    start = time.perf_counter()
    progress(_STEP, 0, 3)
    normalize(model)
    reference = clone(model)
    channels = channel_map(model)
    progress(_STEP, 1, 3)
    chosen = choose_units(
        channels,
        ratio=ratio,
        importance=importance,
        round_to=round_to,
        protect=protect,
        minimum=minimum,
        seed=seed,
    )
    progress(_STEP, 2, 3)
    before = _weights(model)
    units = np.concatenate([*chosen.values(), np.zeros(0, np.int64)])
    if len(units):
        remove_units(model, channels, units.tolist())
        check_loads(model)
    progress(_STEP, 3, 3)
    rows = _rows(before, _weights(model))
    fit = None
    if samples is not None and len(units):
        model, fit = repair_ir(model, reference, samples, seed=seed, progress=progress)
    return model, StepReport(
        step=_STEP,
        changed=len(units) > 0,
        summary=_summary(channels, chosen, before, _weights(model))
        + (f"; repair: {fit.summary}" if fit is not None else ""),
        changes=(
            {"units-removed": len(units), "groups": len(chosen), **(fit.changes if fit else {})}
            if chosen
            else {}
        ),
        declined=(*_pinned(channels), *(fit.declined if fit else ())),
        layers=rows,
        seconds=time.perf_counter() - start,
    )


def _pinned(channels: ChannelMap) -> tuple[Declined, ...]:
    return tuple(
        Declined(_STEP, group.name, f"{group.pin.reason} ({group.pin.where})")
        for group in channels.groups
        if group.pin is not None
    )


#: The shape of every weight, by node name and port.
_Shapes = dict[tuple[str, str, int], tuple[int, ...]]


def _weights(model: ir.Model) -> _Shapes:
    return {
        (p.node.name or "", p.node.op_type, p.port): tuple(p.tensor.shape.numpy())
        for p in iter_parameters(model)
    }


def _rows(before: _Shapes, after: _Shapes) -> tuple[LayerRow, ...]:
    return tuple(
        LayerRow(
            name,
            op_type,
            {"port": port, "before": _text(shape), "after": _text(after[name, op_type, port])},
        )
        for (name, op_type, port), shape in before.items()
        if after[name, op_type, port] != shape
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _summary(
    channels: ChannelMap, chosen: Mapping[str, Ids], before: _Shapes, after: _Shapes
) -> str:
    free = [group for group in channels.groups if group.pin is None]
    if not free:
        return "no layer has channels that may be removed: see the declined groups"
    if not chosen:
        return "nothing to remove at this ratio, rounding and protection"
    old, new = (sum(int(np.prod(s)) for s in shapes.values()) for shapes in (before, after))
    removed, total = sum(map(len, chosen.values())), sum(len(group.units) for group in free)
    return (
        f"removed {removed} of {total} units in {len(chosen)} of {len(free)} groups: "
        f"weights {old} -> {new} ({new / old:.1%})"
    )
