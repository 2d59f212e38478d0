"""Removable branches: side paths of sums that compute a constant once a group is gone.

    x --+--> conv --> [units] --> conv --+--> sum          x ------> (in the sum's place)
        +--------------------------------+

A layer that reads only units of one group computes a constant without them. Where such
constants only go into sums beside a value of the full shape, each sum can be replaced by
that other side, and the whole branch is removed: a residual block, a feed-forward part, an
attention.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, constants_of
from onnxlite.graph import iter_nodes, values_read
from onnxlite.ops import ShapeOf, spec_of

#: A sum's node, and the port at which a branch enters it.
Junction = tuple[ir.Node, int]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A branch that can be removed together with all units of a group.

    Attributes:
        group: its index in the channel map.
        consumers: the layers that read the group; without it they compute constants.
        junctions: where these constants enter sums.
        nodes: everything that only the branch needs, the sums included, in graph order.
    """

    group: int
    consumers: tuple[ir.Node, ...]
    junctions: tuple[Junction, ...]
    nodes: tuple[ir.Node, ...]


def branches_of(model: ir.Model, channels: ChannelMap) -> Mapping[int, Branch]:
    """Find the removable branches, by the index of the group that each goes with.

    Any subset of them can be removed: of two branches that meet in one sum only the first
    is listed. Takes O(n log n) steps for n nodes.

    Args:
        model: the model that `channels` was derived from.
        channels: its units.
    """
    graph = _Dataflow(model, channels.shape_of)
    found: dict[int, Branch] = {}
    taken: set[ir.Node] = set()
    for index, touched in _touched_values(channels).items():
        if channels.groups[index].pin is not None or not all(touched.values()):
            continue
        ends = graph.propagate(touched.keys())
        if ends is None or any(node in taken for node, _ in ends[1]):
            continue
        consumers, junctions = ends
        taken.update(node for node, _ in junctions)
        found[index] = Branch(
            group=index, consumers=consumers, junctions=junctions, nodes=graph.upstream(junctions)
        )
    return found


def _touched_values(channels: ChannelMap) -> dict[int, dict[ir.Value, bool]]:
    """For each group, the computed values with units of it; True if they have no others."""
    group_of = np.full(len(channels.root), -1)
    for index, group in enumerate(channels.groups):
        group_of[group.units] = index
    found: dict[int, dict[ir.Value, bool]] = {}
    for value, ids in channels.values.items():
        own = np.unique(group_of[channels.root[ids]]).tolist()
        for index in own:
            if index >= 0:
                found.setdefault(index, {})[value] = len(own) == 1
    return dict(sorted(found.items()))


class _Dataflow:
    """Who reads what in the main graph, prepared once for all groups."""

    def __init__(self, model: ir.Model, shape_of: ShapeOf) -> None:
        self._graph = model.graph
        self._shape_of = shape_of
        self._order = {node: index for index, node in enumerate(iter_nodes(model))}
        self._constants = constants_of(model)
        self._last = self._chains()
        self._needed = self._needed_nodes()
        self._readers: dict[ir.Value, int] = {}
        for node in self._needed:
            for value in values_read(node):
                self._readers[value] = self._readers.get(value, 0) + 1

    def _chains(self) -> dict[ir.Value, ir.Value]:
        """The last value of the chain that starts at each value.

        A chain goes on while a value has one reader, which reads nothing else that is
        computed: if the value is a constant, so are all values of its chain.
        """
        last: dict[ir.Value, ir.Value] = {}
        for node in reversed(self._graph):
            if len(node.outputs) != 1:
                continue
            computed = [value for value in values_read(node) if value not in self._constants]
            (output,) = node.outputs
            if len(computed) != 1 or computed[0].is_graph_output():
                continue
            if len(computed[0].uses()) == 1:
                last[computed[0]] = last.get(output, output)
        return last

    def _needed_nodes(self) -> set[ir.Node]:
        """The nodes of the main graph that an output depends on."""
        needed: set[ir.Node] = set()
        waiting = [value.producer() for value in self._graph.outputs]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in needed:
                needed.add(node)
                waiting += [value.producer() for value in values_read(node)]
        return needed

    def _users(self, values: Iterable[ir.Value]) -> list[ir.Node]:
        """The nodes that read any of some values, in graph order."""
        users = {use.node for value in values for use in value.uses()}
        return sorted(users, key=self._order.__getitem__)

    def propagate(
        self, empty: Set[ir.Value]
    ) -> tuple[tuple[ir.Node, ...], tuple[Junction, ...]] | None:
        """Follow the constants that remain once `empty` values have lost all units.

        Returns:
            The layers that read these values, and where the constants enter sums; None if
            something else needs them.
        """
        consumers = self._consumers(empty)
        if consumers is None:
            return None
        junctions: list[Junction] = []
        constant: set[ir.Value] = set()
        seen: set[ir.Node] = set(consumers)
        waiting: list[tuple[int, ir.Node]] = []

        def enqueue(values: Iterable[ir.Value]) -> bool:
            """Take constants over; False if one is an output of the model."""
            for value in values:
                end = self._last.get(value, value)
                constant.update((value, end))
                if value.is_graph_output() or end.is_graph_output():
                    return False
                # The readers of a chain that ends with the group were looked at before.
                for use in () if end in empty and end is not value else end.uses():
                    if use.node not in seen:
                        seen.add(use.node)
                        heapq.heappush(waiting, (self._order[use.node], use.node))
            return True

        if any(v.is_graph_output() for v in empty) or not enqueue(_outputs(consumers)):
            return None
        while waiting:
            _, node = heapq.heappop(waiting)
            if node.graph is not self._graph:
                return None
            if all(value in empty for value in node.outputs):
                continue
            if any(value in empty for value in node.inputs):
                return None
            if all(value in constant or value in self._constants for value in values_read(node)):
                if not enqueue(node.outputs):
                    return None
            elif (port := self._constant_side(node, constant)) is not None:
                junctions.append((node, port))
            else:
                return None
        return (tuple(consumers), tuple(junctions)) if junctions else None

    def _consumers(self, empty: Set[ir.Value]) -> list[ir.Node] | None:
        """The layers that read `empty` values and make none; None if another node does."""
        consumers = []
        for node in self._users(empty):
            if node.graph is not self._graph:
                return None
            if all(value in empty for value in node.outputs if value.name):
                continue
            if spec_of(node).output_axis is None or any(v in empty for v in node.outputs):
                return None
            consumers.append(node)
        return consumers

    def _constant_side(self, node: ir.Node, constant: Set[ir.Value]) -> int | None:
        """The only constant side of a sum of which another side has the full shape."""
        if not spec_of(node).sums or node.outputs[0].is_graph_output():
            return None
        ports = [port for port, value in enumerate(node.inputs) if value in constant]
        others = [value for port, value in enumerate(node.inputs) if port not in ports and value]
        full = any(_is_full(value, node.outputs[0], self._shape_of) for value in others)
        return ports[0] if len(ports) == 1 and full else None

    def upstream(self, junctions: Iterable[Junction]) -> tuple[ir.Node, ...]:
        """The nodes that only these junctions need, and their sums, in graph order."""
        cut = {node: node.inputs[port] for node, port in junctions}
        unneeded: set[ir.Node] = set()
        left: dict[ir.Value, int] = {}
        waiting = list(cut.values())
        while waiting:
            value = waiting.pop()
            assert value is not None
            left[value] = self._left(value, left) - 1
            node = value.producer()
            if node is None or node in unneeded:
                continue
            if all(not v.is_graph_output() and not self._left(v, left) for v in node.outputs):
                unneeded.add(node)
                waiting += (v for v in values_read(node) if v is not cut.get(node))
        return tuple(sorted(unneeded | cut.keys(), key=self._order.__getitem__))

    def _left(self, value: ir.Value, left: Mapping[ir.Value, int]) -> int:
        """How many needed nodes outside of a branch read a value."""
        return left.get(value, self._readers.get(value, 0))


def _outputs(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from node.outputs


def _is_full(side: ir.Value, total: ir.Value, shape_of: ShapeOf) -> bool:
    """Tell whether a side has the shape of the sum, whatever its dynamic axes are."""
    if side.shape is None or total.shape is None or shape_of(side) != shape_of(total):
        return False
    return not any(
        isinstance(a, int) and not isinstance(b, int)
        for a, b in zip(side.shape, total.shape, strict=True)
    )
