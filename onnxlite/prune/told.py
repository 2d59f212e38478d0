"""What channel pruning tells in its report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap
from onnxlite.ops import Ids, iter_parameters
from onnxlite.prune.goal import Goal
from onnxlite.prune.reach import Reached, Removed
from onnxlite.records import Declined, LayerRow

STEP = "prune-channels"


def pinned(channels: ChannelMap) -> tuple[Declined, ...]:
    """Groups that must stay, each with the reason."""
    return tuple(
        Declined(STEP, group.name, f"{group.pin.reason} ({group.pin.where})")
        for group in channels.groups
        if group.pin is not None
    )


def ended(channels: ChannelMap, removed: Removed) -> dict[str, int]:
    """The count of branches that end, for the changes of a report; empty for none."""
    whole = sum(n == len(g.units) for g, n in zip(channels.groups, removed, strict=True))
    return {"branches-ended": whole} if whole else {}


#: The shape of every weight, by node name and port.
Shapes = dict[tuple[str, str, int], tuple[int, ...]]


def weight_shapes(model: ir.Model) -> Shapes:
    """The shapes of all weights of a model."""
    return {
        (p.node.name or "", p.node.op_type, p.port): tuple(p.tensor.shape.numpy())
        for p in iter_parameters(model)
    }


def layer_rows(before: Shapes, after: Shapes) -> tuple[LayerRow, ...]:
    """A row for every weight that has another shape now, or is gone."""
    return tuple(
        LayerRow(
            name,
            op_type,
            {"port": port, "before": _text(shape), "after": _text(after.get(key, ()))},
        )
        for key, shape in before.items()
        for name, op_type, port in [key]
        if after.get(key) != shape
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "none"


def share_left(goal: Goal, reached: Reached) -> str:
    """How much of what is priced is left, against what was wanted."""
    assert goal.kept is not None
    name, share = goal.kept
    return f"{reached.share:.1%} of the {name} is left (wanted {share:.1%})"


def short_of(goal: Goal, reached: Reached, channels: ChannelMap, free: frozenset[str]) -> Declined:
    """Why a goal was not reached: what stays."""
    staying = [group for group in channels.groups if group.name not in free]
    names = ", ".join(f"{group.name!r} ({len(group.units)} units)" for group in staying[:5])
    more = f" and {len(staying) - 5} more" if len(staying) > 5 else ""
    if not channels.groups:
        reason = "no layer of the main graph has channels (bodies of If, Loop and Scan stay)"
        return Declined(STEP, share_left(goal, reached), reason)
    reason = "every group that may lose units keeps the least it is allowed to"
    if staying:
        reason += f"; these groups must stay, for the reasons given for each: {names}{more}"
    return Declined(STEP, share_left(goal, reached), reason)


def summary(
    channels: ChannelMap,
    free_names: frozenset[str],
    chosen: Mapping[str, Ids],
    before: Shapes,
    after: Shapes,
) -> str:
    """What went, in one sentence; or why nothing did."""
    free = [group for group in channels.groups if group.name in free_names]
    if not free:
        return "no layer has channels that may be removed: see the declined groups"
    if not chosen:
        return "nothing to remove at this ratio, rounding and protection"
    old, new = (sum(int(np.prod(s)) for s in shapes.values()) for shapes in (before, after))
    removed, total = sum(map(len, chosen.values())), sum(len(group.units) for group in free)
    return (
        f"removed {removed} of {total} units in {len(chosen)} of {len(free)} groups: "
        f"weights {old} -> {new} ({new / max(old, 1):.1%})"
    )
