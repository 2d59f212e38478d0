"""Removable branches: side paths of sums that are constant without a group.

    x --+--> conv --> [units] --> conv --+--> sum          x ------> (in the sum's place)
        +--------------------------------+

A layer that reads only units of one group computes a constant without them. If such constants
are only added to values of the full shape, each sum can be replaced by its other side, and the
whole branch is removed: a residual block, a feed-forward part, an attention.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap, constants_of
from onnxlite.graph import iter_nodes, values_read
from onnxlite.ops import ShapeOf, spec_of

#: The node of a sum, and the input of it that comes from the branch.
Junction = tuple[ir.Node, int]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A branch that can be removed together with all units of a group.

    Attributes:
        group: its index in the channel map.
        consumers: layers that read the group; without it they compute constants.
        junctions: sums that these constants are added to.
        nodes: nodes that only the branch needs, the sums included, in graph order.
    """

    group: int
    consumers: tuple[ir.Node, ...]
    junctions: tuple[Junction, ...]
    nodes: tuple[ir.Node, ...]


def branches_of(model: ir.Model, channels: ChannelMap) -> Mapping[int, Branch]:
    """Find the removable branches, by the index of their group.

    Any subset of them can be removed: of two branches that share a sum only the first is
    returned. Takes O(n log n) steps for n nodes.

    Args:
        model: the model that `channels` was derived from.
        channels: units of the model.
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
    """Find the computed values with units of each group; True if they have no others."""
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
    """Readers of the values of the main graph, prepared once for all groups."""

    def __init__(self, model: ir.Model, shape_of: ShapeOf) -> None:
        self.graph = model.graph
        self._shape_of = shape_of
        self.order = {node: index for index, node in enumerate(iter_nodes(model))}
        self.constants = constants_of(model)
        self.chain_end = self._chains()
        self._needed = self._needed_nodes()
        self._readers: dict[ir.Value, int] = {}
        for node in self._needed:
            for value in values_read(node):
                self._readers[value] = self._readers.get(value, 0) + 1

    def _chains(self) -> dict[ir.Value, ir.Value]:
        """Find the last value of the chain that starts at each value.

        A chain continues while a value has one reader that reads no other computed value: if
        the value is a constant, so are all values of its chain.
        """
        last: dict[ir.Value, ir.Value] = {}
        for node in reversed(self.graph):
            if len(node.outputs) != 1:
                continue
            computed = [value for value in values_read(node) if value not in self.constants]
            (output,) = node.outputs
            if len(computed) != 1 or computed[0].is_graph_output():
                continue
            if len(computed[0].uses()) == 1:
                last[computed[0]] = last.get(output, output)
        return last

    def _needed_nodes(self) -> set[ir.Node]:
        """Find the nodes of the main graph that an output depends on."""
        needed: set[ir.Node] = set()
        waiting = [value.producer() for value in self.graph.outputs]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in needed:
                needed.add(node)
                waiting += [value.producer() for value in values_read(node)]
        return needed

    def _users(self, values: Iterable[ir.Value]) -> list[ir.Node]:
        """Return the nodes that read any of some values, in graph order."""
        users = {use.node for value in values for use in value.uses()}
        return sorted(users, key=self.order.__getitem__)

    def propagate(
        self, empty: Set[ir.Value]
    ) -> tuple[tuple[ir.Node, ...], tuple[Junction, ...]] | None:
        """Follow the constants that remain once `empty` values have lost all units.

        Returns:
            The layers that read these values, and the sums that the constants are added to;
            None if the constants are needed elsewhere.
        """
        consumers = self._consumers(empty)
        if consumers is None or any(value.is_graph_output() for value in empty):
            return None
        junctions = _Propagation(self, empty).junctions(consumers)
        return (tuple(consumers), junctions) if junctions else None

    def _consumers(self, empty: Set[ir.Value]) -> list[ir.Node] | None:
        """Find the layers that read `empty` values; None if another node reads one."""
        consumers = []
        for node in self._users(empty):
            if node.graph is not self.graph:
                return None
            if all(value in empty for value in node.outputs if value.name):
                continue
            if spec_of(node).output_axis is None or any(v in empty for v in node.outputs):
                return None
            consumers.append(node)
        return consumers

    def constant_side(self, node: ir.Node, constant: Set[ir.Value]) -> int | None:
        """Port of the one constant input of a sum with another input of full shape."""
        if not spec_of(node).sums or node.outputs[0].is_graph_output():
            return None
        ports = [port for port, value in enumerate(node.inputs) if value in constant]
        others = [value for port, value in enumerate(node.inputs) if port not in ports and value]
        full = any(_is_full(value, node.outputs[0], self._shape_of) for value in others)
        return ports[0] if len(ports) == 1 and full else None

    def upstream(self, junctions: Iterable[Junction]) -> tuple[ir.Node, ...]:
        """Return the nodes that only these junctions need, and the sums, in graph order."""
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
        return tuple(sorted(unneeded | cut.keys(), key=self.order.__getitem__))

    def _left(self, value: ir.Value, left: Mapping[ir.Value, int]) -> int:
        """Count the needed nodes outside of a branch that read a value."""
        return left.get(value, self._readers.get(value, 0))


class _Propagation:
    """Constants that remain without a group, followed through the graph in its order.

    Args:
        flow: the graph.
        empty: values that have lost all units.
    """

    def __init__(self, flow: _Dataflow, empty: Set[ir.Value]) -> None:
        self._flow, self._empty = flow, empty
        self._constant: set[ir.Value] = set()
        self._seen: set[ir.Node] = set()
        self._waiting: list[tuple[int, ir.Node]] = []
        self._junctions: list[Junction] = []

    def junctions(self, consumers: Sequence[ir.Node]) -> tuple[Junction, ...] | None:
        """Find the sums that constants of `consumers` reach; None if other nodes need them."""
        self._seen.update(consumers)
        if not self._add(_outputs(consumers)):
            return None
        while self._waiting:
            _, node = heapq.heappop(self._waiting)
            if not self._visit(node):
                return None
        return tuple(self._junctions)

    def _visit(self, node: ir.Node) -> bool:
        """Follow constants through a node; return False if it needs them."""
        flow = self._flow
        if node.graph is not flow.graph:
            return False
        if all(value in self._empty for value in node.outputs):
            return True
        if any(value in self._empty for value in node.inputs):
            return False
        if all(v in self._constant or v in flow.constants for v in values_read(node)):
            return self._add(node.outputs)
        port = flow.constant_side(node, self._constant)
        if port is None:
            return False
        self._junctions.append((node, port))
        return True

    def _add(self, values: Iterable[ir.Value]) -> bool:
        """Add constants and queue their readers; return False for an output of the model."""
        for value in values:
            end = self._flow.chain_end.get(value, value)
            self._constant.update((value, end))
            if value.is_graph_output() or end.is_graph_output():
                return False
            # The readers of a chain that ends in the group were visited before.
            if end is value or end not in self._empty:
                self._enqueue(use.node for use in end.uses())
        return True

    def _enqueue(self, nodes: Iterable[ir.Node]) -> None:
        for node in nodes:
            if node not in self._seen:
                self._seen.add(node)
                heapq.heappush(self._waiting, (self._flow.order[node], node))


def _outputs(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from node.outputs


def _is_full(side: ir.Value, total: ir.Value, shape_of: ShapeOf) -> bool:
    """Return True if a side has the shape of the sum for all sizes of dynamic axes."""
    if side.shape is None or total.shape is None or shape_of(side) != shape_of(total):
        return False
    return not any(
        isinstance(a, int) and not isinstance(b, int)
        for a, b in zip(side.shape, total.shape, strict=True)
    )
