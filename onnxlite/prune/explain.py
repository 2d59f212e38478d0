"""Which channel units a model has, as records: what binds them, what pins them."""

from __future__ import annotations

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
from onnxlite.ops import spec_of


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """Interchangeable units.

    Attributes:
        name: of the layer that makes them, as `prune_channels(ratio={name: ...})` takes it.
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


class ChannelReport(msgspec.Struct, frozen=True, kw_only=True):
    """All units of a model.

    Attributes:
        groups: in the order of the graph.
        units: how many there are.
        prunable: how many of them may go.
    """

    groups: tuple[GroupRow, ...]
    units: int
    prunable: int


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
        _row(channels, group, _layers(copy, branches[index]) if index in branches else ())
        for index, group in enumerate(channels.groups)
    )
    return ChannelReport(
        groups=rows,
        units=sum(row.units for row in rows),
        prunable=sum(row.units for row in rows if row.pinned is None),
    )


def _layers(model: ir.Model, branch: Branch) -> tuple[str, ...]:
    """The nodes of a branch that have weights."""
    return tuple(
        node.name or node.op_type
        for node in model.graph
        if node in branch.nodes
        and any(const_tensor(node.inputs[p]) is not None for p in spec_of(node).weights)
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
