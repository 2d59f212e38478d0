"""Reports on channels: the groups of a model, and the result of pruning them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch, branches_of
from onnxlite.analysis.channels import ChannelMap, UnitGroup, channel_map
from onnxlite.analysis.quantized_model import PRUNE_FIRST, computed_weights
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.analysis.units import in_groups
from onnxlite.graph import const_tensor
from onnxlite.model import ModelLike, load
from onnxlite.normalize import normalize
from onnxlite.ops import iter_parameters, spec_of
from onnxlite.prune.options import (
    PruneChannelsChanges,
    PruneChannelsReport,
    ResizedWeight,
    ResolvedWidths,
)
from onnxlite.prune.target_search import Selection
from onnxlite.prune.task import PruningTask
from onnxlite.records import Report, Skipped
from onnxlite.repair.options import RepairReport


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """A group of interchangeable units.

    Attributes:
        name: name of the layer that produces them, a key of `prune_channels(remove=...)`.
        units: number of units.
        width: number of channels of one unit, on the axis where it has the fewest
            (`head_size` for an attention head).
        parameters: number of elements removed with one unit.
        layers: names of the nodes whose weights become smaller, in the order of the graph.
        pinned: reason and node because of which no unit can be removed; None if units can be.
        branch: names of the layers that are removed if all units are, such as those of a
            residual block; empty if at least one unit must stay.
    """

    name: str
    units: int
    width: int
    parameters: int
    layers: tuple[str, ...]
    pinned: str | None
    branch: tuple[str, ...] = ()


class ChannelReport(Report, frozen=True, kw_only=True):
    """Channel units of a model.

    Attributes:
        groups: groups of units, in the order of the graph.
        units: number of units.
        prunable: number of units that can be removed.
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
    """Find the channel units of a model, their layers, and reasons that pin them.

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
    """Names of the nodes of a branch that have weights."""
    return tuple(
        node.name or node.op_type
        for node in branch.nodes
        if any(const_tensor(node.inputs[p]) is not None for p in spec_of(node).weights)
    )


def _row(channels: ChannelMap, group: UnitGroup, branch: tuple[str, ...]) -> GroupRow:
    return GroupRow(
        name=group.name,
        units=len(group.units),
        width=group.width,
        parameters=_parameters(channels, group),
        layers=tuple(node.name or node.op_type for node in group.layers),
        pinned=None if group.pin is None else f"{group.pin.reason} ({group.pin.where})",
        branch=branch,
    )


def _parameters(channels: ChannelMap, group: UnitGroup) -> int:
    """Count the elements bound to the first unit; crossing axes count once."""
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


@dataclass(frozen=True)
class Shapes:
    """Shapes of the weights of a model.

    Attributes:
        by_use: the shape of every weight, by node name, operator and port.
        elements: number of elements; a weight that several nodes read counts once.
    """

    by_use: dict[tuple[str, str, int], tuple[int, ...]]
    elements: int


def weight_shapes(model: ir.Model) -> Shapes:
    """Return the shapes of all weights of a model."""
    parameters = list(iter_parameters(model))
    return Shapes(
        {
            (p.node.name or "", p.node.op_type, p.port): tuple(p.tensor.shape.numpy())
            for p in parameters
        },
        sum({p.value: p.tensor.size for p in parameters}.values()),
    )


def channel_step_report(
    task: PruningTask,
    selection: Selection,
    shapes: tuple[Shapes, Shapes],
    *,
    skipped: tuple[Skipped, ...],
    fit: RepairReport | None,
) -> PruneChannelsReport:
    """Report what was removed, or why nothing was.

    Args:
        task: the task, whose channel map refers to names that are still valid.
        selection: the units that were removed.
        shapes: shapes of all weights before and after the removal.
        skipped: entries of scoring and verification.
        fit: the report of the repair, if there was one.
    """
    groups = task.channels.groups
    pairs = list(zip(groups, selection.removed, strict=True))
    changed = any(selection.removed)
    sentences = [_summary(task, selection, shapes)]
    if selection.fraction is not None and changed:
        sentences.append(_fraction_left(task, selection))
    if fit is not None:
        sentences.append(f"repair: {fit.summary}")
    short = () if selection.complete else (_short_of_target(task, selection),)
    measured = task.options.latency is not None
    return PruneChannelsReport(
        changed=changed,
        summary="; ".join(sentences),
        changes=PruneChannelsChanges(
            units_removed=sum(selection.removed),
            groups=sum(count > 0 for count in selection.removed),
            branches_removed=sum(0 < n == len(group.units) for group, n in pairs),
            layers_repaired=fit.changes.layers_repaired if fit is not None else 0,
        ),
        skipped=(*short, *skipped, *_pinned(task), *(fit.skipped if fit is not None else ())),
        layers=_layer_rows(*shapes),
        resolved_options=(
            ResolvedWidths(widths={g.name: len(g.units) - n for g, n in pairs if n})
            if measured
            else None
        ),
        hold_out=task.hold_out,
    )


def _summary(task: PruningTask, selection: Selection, shapes: tuple[Shapes, Shapes]) -> str:
    eligible = [group for group in task.channels.groups if group.name in task.eligible]
    if not eligible:
        reason = computed_weights(task.model, PRUNE_FIRST)
        return reason or "no layer has channels that can be removed: see the skipped groups"
    if task.target is not None and selection.fraction is None:
        return f"the model has no {task.target.resource} to save: give remove or widths instead"
    if not any(selection.removed):
        return "nothing to remove with these options"
    old, new = (some.elements for some in shapes)
    return (
        f"removed {sum(selection.removed)} of {sum(len(group.units) for group in eligible)} units "
        f"in {sum(count > 0 for count in selection.removed)} of {len(eligible)} groups: "
        f"weights {old} -> {new} ({new / max(old, 1):.1%})"
    )


def _fraction_left(task: PruningTask, selection: Selection) -> str:
    assert task.target is not None
    assert selection.fraction is not None
    resource, wanted = task.target
    return f"{selection.fraction:.1%} of the {resource} is left (wanted {wanted:.1%})"


def _short_of_target(task: PruningTask, selection: Selection) -> Skipped:
    """Explain why the target was not reached."""
    reason = "every eligible group is at its minimum number of units"
    staying = [group for group in task.channels.groups if group.name not in task.eligible]
    if not task.channels.groups:
        reason = "no layer of the main graph has channels (bodies of If, Loop and Scan are kept)"
    elif staying:
        names = ", ".join(f"{group.name!r} ({len(group.units)} units)" for group in staying[:5])
        more = f" and {len(staying) - 5} more" if len(staying) > 5 else ""
        reason += f"; these groups are pinned or excluded: {names}{more}"
    message = f"{_fraction_left(task, selection)}: {reason}"
    return Skipped(task.options.name(), "", "goal-not-reached", message)


def _pinned(task: PruningTask) -> Iterator[Skipped]:
    for group in task.channels.groups:
        if group.pin is not None:
            message = f"{group.pin.reason} ({group.pin.where})"
            yield Skipped(task.options.name(), group.name, "pinned", message)


def _layer_rows(before: Shapes, after: Shapes) -> tuple[ResizedWeight, ...]:
    """Make a row for every weight that was resized or removed."""
    return tuple(
        ResizedWeight(
            name=name, op_type=op_type, port=port, before=shape, after=after.by_use.get(key)
        )
        for key, shape in before.by_use.items()
        for name, op_type, port in [key]
        if after.by_use.get(key) != shape
    )
