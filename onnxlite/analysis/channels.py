"""Channel units: channels that can only be removed together, derived from the graph.

Every operator has a rule (`onnxlite.ops`) that propagates the ids of its inputs; one pass over
the main graph runs all rules. Coupled structures: Fang et al. 2023 (DepGraph).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.analysis.tracking import Tracking
from onnxlite.analysis.units import Binding, Pin, Recount, Reindex
from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed
from onnxlite.ops import Ids, ShapeOf, carry_sizes, spec_of, tracked_axes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UnitGroup:
    """A group of interchangeable units, bound in the same slices of the same layers.

    Attributes:
        name: name of the layer that produces them, with a number if it produces several
            groups.
        units: ids of the units, ascending.
        bindings: slices of initializers that belong to them.
        layers: nodes of those bindings, in the order of the graph.
        width: positions of one unit on the axis where it has the fewest (the head size for
            attention heads, 1 for ordinary channels).
        pin: reason why they cannot be removed; None if they can.
    """

    name: str
    units: Ids
    bindings: tuple[Binding, ...]
    layers: tuple[ir.Node, ...]
    width: int
    pin: Pin | None


@dataclass(frozen=True, kw_only=True)
class ChannelMap:
    """Channel units of a model, which refer to its nodes and values.

    Attributes:
        root: unit of every id: `root[ids]`.
        bindings: slices of initializers that belong to units.
        recounts: constants and attributes that hold a number of positions.
        reindexes: constants that hold indices of positions.
        groups: groups of units with the same bindings.
        values: ids of every computed value that has units.
        slices: unit of every slice of a constant along an axis, see `Binding.line`; also of
            constants that are computed from others.
        shape_of: concrete shapes that the analysis used.
    """

    root: Ids
    bindings: tuple[Binding, ...]
    recounts: tuple[Recount, ...]
    reindexes: tuple[Reindex, ...]
    groups: tuple[UnitGroup, ...]
    values: Mapping[ir.Value, Ids]
    slices: Mapping[tuple[ir.Value, int], Ids]
    shape_of: ShapeOf


def channel_map(model: ir.Model, *, feeds: Sequence[Feed] | None = None) -> ChannelMap:
    """Derive the channel units of a normalized model (see `onnxlite.normalize`).

    Args:
        model: the model; it is not changed, and the result refers to its nodes and values.
        feeds: the first one sets the sizes of dynamic axes, on which the units do not depend;
            needed only where the model does not accept generated inputs.
    """
    shape_of = concrete_shapes(model, feeds)
    constants = constants_of(model)
    opset = model.opset_imports.get("", 1)
    t = Tracking(shape_of, constants, opset)
    for node in model.graph:
        with t.at(node):
            if not node.outputs or all(value in constants for value in node.outputs):
                continue
            _visit(node, t, [shape_of(v) is not None for v in (*node.inputs, *node.outputs) if v])
    for value in model.graph.outputs:
        t.pin_whole(value, f"{value.name!r} is an output of the model")
    for node in model.graph:
        for value in node.outputs:
            if any(use.node.graph is not model.graph for use in value.uses()):
                t.pin_whole(value, f"{value.name!r} is used in a subgraph")
    t.finish()
    root = t.units.all_roots()
    bindings = tuple(t.bindings.values())
    return ChannelMap(
        root=root,
        bindings=bindings,
        recounts=tuple(t.recounts),
        reindexes=tuple(t.reindexes),
        groups=tuple(_groups(model, t, root, bindings)),
        values=t.values,
        slices=t.slices(),
        shape_of=shape_of,
    )


def _visit(node: ir.Node, t: Tracking, known: Iterable[bool]) -> None:
    rule = spec_of(node).channels
    if rule is not None and all(known):
        carry_sizes(node, t)
        rule(node, t)
        return
    reason = "its operator has no channel rule" if rule is None else "its shapes are unknown"
    for value in node.inputs:
        if value is not None:
            t.pin_whole(value, reason)


def constants_of(model: ir.Model) -> set[ir.Value]:
    """Return the values of the main graph that depend on initializers only."""
    constants = {v for v in model.graph.initializers.values() if not v.is_graph_input()}
    for node in model.graph:
        has_body = any(
            attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attr in node.attributes.values()
        )
        inputs = [value for value in node.inputs if value is not None]
        random = spec_of(node).random
        if not has_body and not random and all(value in constants for value in inputs):
            constants.update(node.outputs)
    return constants


def _groups(
    model: ir.Model, t: Tracking, root: Ids, bindings: Sequence[Binding]
) -> Iterator[UnitGroup]:
    """Group units with equal bindings, on the same axes of the same values, and equal pins."""
    pins: dict[int, Pin] = {}
    for pin in t.pins:
        for unit in np.unique(root[pin.ids]).tolist():
            pins.setdefault(unit, pin)
    # An axis may be split later (Split), and each part must keep a position.
    axes = {np.unique(root[ids]).tobytes() for ids in t.values.values() if tracked_axes(ids)}
    found_in: dict[int, list[int]] = {}
    lines = (np.unique(root[binding.line]) for binding in bindings)
    for index, units in enumerate((*lines, *(np.frombuffer(a, np.int64) for a in sorted(axes)))):
        for unit in units.tolist():
            found_in.setdefault(unit, []).append(index)
    members_of: dict[tuple[tuple[int, ...], str | None], list[int]] = {}
    for unit, indices in sorted(found_in.items()):
        if unit != 0 and indices[0] < len(bindings):
            reason = pins.get(unit)
            text = None if reason is None else reason.reason + reason.where
            members_of.setdefault((tuple(indices), text), []).append(unit)
    order = {node: index for index, node in enumerate(iter_nodes(model))}
    name_counts: dict[str, int] = {}
    for (places, _), members in members_of.items():
        own = tuple(bindings[index] for index in places if index < len(bindings))
        nodes = {node for binding in own for node, _ in binding.uses}
        layers = tuple(sorted(nodes, key=order.__getitem__))
        name = layers[0].name or layers[0].op_type
        name_counts[name] = name_counts.get(name, 0) + 1
        yield UnitGroup(
            name=name if name_counts[name] == 1 else f"{name}#{name_counts[name]}",
            units=np.array(members, np.int64),
            bindings=own,
            layers=layers,
            width=min(int((root[binding.line] == members[0]).sum()) for binding in own),
            pin=pins.get(members[0]),
        )
