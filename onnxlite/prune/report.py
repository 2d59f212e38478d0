"""Reports on channels: the groups of a model, and the result of pruning them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch, branches_of
from onnxlite.analysis.channels import ChannelMap, UnitGroup, channel_map
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.analysis.units import in_groups
from onnxlite.graph import const_tensor
from onnxlite.model import ModelLike, load
from onnxlite.normalize import normalize
from onnxlite.ops import Ids, iter_parameters, spec_of
from onnxlite.prune.target_search import Goal, Removed, Selection
from onnxlite.records import LayerRow, Report, Skipped


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """Interchangeable units.

    Attributes:
        name: of the layer that makes them, as `prune_channels(remove={name: ...})` takes it.
        units: how many there are.
        width: channels that one unit is, on the axis where it is fewest (an attention head
            is `head_size`).
        parameters: elements that go with one unit.
        layers: names of the nodes whose weights become smaller, in the order of the graph.
        pinned: why they must stay, and at which node; None if they may go.
        ends: names of the layers that end altogether where all units go: those of a residual
            block, say. Empty where at least one unit stays.
    """

    name: str
    units: int
    width: int
    parameters: int
    layers: tuple[str, ...]
    pinned: str | None
    ends: tuple[str, ...] = ()


class ChannelReport(Report, frozen=True, kw_only=True):
    """All units of a model.

    Attributes:
        groups: in the order of the graph.
        units: how many there are.
        prunable: how many of them may go.
    """

    groups: tuple[GroupRow, ...]
    units: int
    prunable: int

    def __str__(self) -> str:
        lines = [f"{self.prunable:,} of {self.units:,} channel units may be removed"]
        for group in self.groups:
            state = f"pinned: {group.pinned}" if group.pinned else "free"
            lines.append(f"  {group.name}: {group.units} units, {state}")
        return "\n".join(lines)


def explain_channels(model: ModelLike) -> ChannelReport:
    """Find the channel units of a model: which layers each binds, why some must stay.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed.
    """
    copy = load(model)
    normalize(copy)
    infer_shapes(copy)
    channels = channel_map(copy)
    branches = branches_of(copy, channels)
    rows = tuple(
        _row(channels, group, _layers(branches[index]) if index in branches else ())
        for index, group in enumerate(channels.groups)
    )
    return ChannelReport(
        groups=rows,
        units=sum(row.units for row in rows),
        prunable=sum(row.units for row in rows if row.pinned is None),
    )


def _layers(branch: Branch) -> tuple[str, ...]:
    """The nodes of a branch that have weights."""
    return tuple(
        node.name or node.op_type
        for node in branch.nodes
        if any(const_tensor(node.inputs[p]) is not None for p in spec_of(node).weights)
    )


def _row(channels: ChannelMap, group: UnitGroup, ends: tuple[str, ...]) -> GroupRow:
    return GroupRow(
        name=group.name,
        units=len(group.units),
        width=group.width,
        parameters=_parameters(channels, group),
        layers=tuple(node.name or node.op_type for node in group.layers),
        pinned=None if group.pin is None else f"{group.pin.reason} ({group.pin.where})",
        ends=ends,
    )


def _parameters(channels: ChannelMap, group: UnitGroup) -> int:
    """Elements bound to the first unit; where two axes cross they count once."""
    marks: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {}
    for binding in group.bindings:
        tensor, name = binding.value.const_value, binding.value.name or ""
        assert tensor is not None
        if name not in marks:
            marks[name] = np.zeros(tensor.shape.numpy(), bool)
        owned = channels.root[binding.line] == group.units[0]
        for part, own in in_groups(marks[name], owned):
            np.moveaxis(part, binding.axis, 0)[own] = True
    return sum(int(mark.sum()) for mark in marks.values())


STEP = "prune-channels"


def pinned(channels: ChannelMap) -> tuple[Skipped, ...]:
    """Groups that must stay, each with the reason."""
    return tuple(
        Skipped(STEP, group.name, "pinned", f"{group.pin.reason} ({group.pin.where})")
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


def share_left(goal: Goal, reached: Selection) -> str:
    """How much of what is priced is left, against what was wanted."""
    assert goal.kept is not None
    name, share = goal.kept
    return f"{reached.share:.1%} of the {name} is left (wanted {share:.1%})"


def short_of(goal: Goal, reached: Selection, channels: ChannelMap, free: frozenset[str]) -> Skipped:
    """Why a goal was not reached: what stays."""
    staying = [group for group in channels.groups if group.name not in free]
    names = ", ".join(f"{group.name!r} ({len(group.units)} units)" for group in staying[:5])
    more = f" and {len(staying) - 5} more" if len(staying) > 5 else ""
    if not channels.groups:
        reason = "no layer of the main graph has channels (bodies of If, Loop and Scan stay)"
        return Skipped(STEP, "", "goal-not-reached", f"{share_left(goal, reached)}: {reason}")
    reason = "every group that may lose units keeps the least it is allowed to"
    if staying:
        reason += f"; these groups must stay, for the reasons given for each: {names}{more}"
    return Skipped(STEP, "", "goal-not-reached", f"{share_left(goal, reached)}: {reason}")


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
        return "no layer has channels that may be removed: see the skipped groups"
    if not chosen:
        return "nothing to remove with these options"
    old, new = (sum(int(np.prod(s)) for s in shapes.values()) for shapes in (before, after))
    removed, total = sum(map(len, chosen.values())), sum(len(group.units) for group in free)
    return (
        f"removed {removed} of {total} units in {len(chosen)} of {len(free)} groups: "
        f"weights {old} -> {new} ({new / max(old, 1):.1%})"
    )
