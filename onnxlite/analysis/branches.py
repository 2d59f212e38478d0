"""Branches that end where all units of a group go: side paths of sums, with nothing else on them.

    x --+--> conv --> [units] --> conv --+--> sum          x ------> (the sum's place)
        +--------------------------------+

A layer that reads nothing but units of one group computes a constant without them. Where
such constants only go into sums beside a value of the full shape, the sum can become that
other side, and everything that led to the constants ends with it: a residual block, a
feed-forward part, an attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, constants_of
from onnxlite.graph import iter_nodes, values_read
from onnxlite.ops import ShapeOf, spec_of


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What ends with a group.

    Attributes:
        group: its index in the channel map.
        readers: the layers that read it; all that they add to the model is a constant.
        sums: where the constants go: a sum's node and the port of the constant.
        nodes: all that nobody needs any more without the group, the sums included.
    """

    group: int
    readers: tuple[ir.Node, ...]
    sums: tuple[tuple[ir.Node, int], ...]
    nodes: frozenset[ir.Node]


def branches_of(model: ir.Model, channels: ChannelMap) -> Mapping[int, Branch]:
    """The branches of a model by the index of the group with which each ends.

    Any of them may end, and all of them together: of two that meet in one sum the later
    one is left out.

    Args:
        model: that `channels` was derived from.
    """
    order = {node: index for index, node in enumerate(iter_nodes(model))}
    touching = _touching(channels)
    fixed = constants_of(model)
    found: dict[int, Branch] = {}
    taken: set[ir.Node] = set()
    for index, group in enumerate(channels.groups):
        touched = touching.get(index)
        if group.pin is not None or not touched or not all(touched.values()):
            continue
        ends = _ends(model, channels, set(touched), fixed, order)
        if ends is None or any(node in taken for node, _ in ends[1]):
            continue
        readers, sums = ends
        taken.update(node for node, _ in sums)
        found[index] = Branch(
            group=index, readers=readers, sums=sums, nodes=_without(model, dict(sums))
        )
    return found


def _touching(channels: ChannelMap) -> dict[int, dict[ir.Value, bool]]:
    """Of every group the computed values with units of it, and whether they have no others."""
    group_of = np.full(len(channels.root), -1)
    for index, group in enumerate(channels.groups):
        group_of[group.units] = index
    found: dict[int, dict[ir.Value, bool]] = {}
    for value, ids in channels.values.items():
        own = np.unique(group_of[channels.root[ids]]).tolist()
        for index in own:
            if index >= 0:
                found.setdefault(index, {})[value] = len(own) == 1
    return found


def _ends(
    model: ir.Model,
    channels: ChannelMap,
    empty: Set[ir.Value],
    fixed: Set[ir.Value],
    order: Mapping[ir.Node, int],
) -> tuple[tuple[ir.Node, ...], tuple[tuple[ir.Node, int], ...]] | None:
    """The readers of values that lose all they have, and the sums that this leads to."""
    readers: list[ir.Node] = []
    constant: set[ir.Value] = set()
    for node in _users(empty, order):
        if node.graph is not model.graph:
            return None
        if all(value in empty for value in node.outputs if value.name):
            continue
        if spec_of(node).output_axis is None or any(value in empty for value in node.outputs):
            return None
        readers.append(node)
        constant.update(node.outputs)
    sums: list[tuple[ir.Node, int]] = []
    seen: set[ir.Node] = set(readers)
    while waiting := [node for node in _users(constant, order) if node not in seen]:
        node = waiting[0]
        seen.add(node)
        if node.graph is not model.graph:
            return None
        inputs = [value for value in node.inputs if value is not None]
        if all(value in empty for value in node.outputs):
            continue
        if any(value in empty for value in inputs):
            return None
        others = [value for value in inputs if value not in constant | fixed]
        if not others:
            constant.update(node.outputs)
            continue
        port = _constant_side(node, constant, channels.shape_of)
        if port is None:
            return None
        sums.append((node, port))
    if not sums or any(value.is_graph_output() for value in (*empty, *constant)):
        return None
    return tuple(readers), tuple(sorted(sums, key=lambda end: order[end[0]]))


def _users(values: Iterable[ir.Value], order: Mapping[ir.Node, int]) -> list[ir.Node]:
    return sorted({use.node for value in values for use in value.uses()}, key=order.__getitem__)


def _constant_side(node: ir.Node, constant: Set[ir.Value], shape_of: ShapeOf) -> int | None:
    """The only constant side of a sum of which another side has the full shape."""
    if not spec_of(node).sums or node.outputs[0].is_graph_output():
        return None
    ports = [port for port, value in enumerate(node.inputs) if value in constant]
    others = [value for port, value in enumerate(node.inputs) if port not in ports and value]
    full = any(_is_full(value, node.outputs[0], shape_of) for value in others)
    return ports[0] if len(ports) == 1 and full else None


def _is_full(side: ir.Value, total: ir.Value, shape_of: ShapeOf) -> bool:
    """Whether a side has the shape of the sum, whatever its dynamic axes are."""
    if side.shape is None or total.shape is None or shape_of(side) != shape_of(total):
        return False
    return not any(
        isinstance(a, int) and not isinstance(b, int)
        for a, b in zip(side.shape, total.shape, strict=True)
    )


def _without(model: ir.Model, cut: Mapping[ir.Node, int]) -> frozenset[ir.Node]:
    """The nodes that no output needs once the sums do not read these ports, and the sums."""
    return frozenset((_needed(model, {}) - _needed(model, cut)) | cut.keys())


def _needed(model: ir.Model, cut: Mapping[ir.Node, int]) -> set[ir.Node]:
    needed: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in needed:
            continue
        needed.add(node)
        port = cut.get(node)
        read = (value for value in node.inputs if port is None or value is not node.inputs[port])
        waiting += [
            value.producer() for value in (read if node in cut else values_read(node)) if value
        ]
    return needed
