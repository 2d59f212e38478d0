"""Partition of a model into float and integer nodes of least total time, by a minimum cut.

Each node has a time on either side; a value that passes from one side to the other is
converted once, however many nodes read it. The cheapest partition is a minimum s-t cut (Picard &
Ratliff 1975; Kolmogorov & Zabih 2004, the auxiliary vertices): the source's side runs on
integers. The cut is found with Dinitz's algorithm (1970) on real capacities.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import Placement, reads_integers
from onnxlite.quantize.core.selection import read_by_layer, source


@dataclass(frozen=True)
class Conversion:
    """Seconds to take one value to the other side."""

    to_integers: float
    to_float: float


@dataclass(frozen=True)
class Costs:
    """Costs of nodes and conversions, in seconds.

    Attributes:
        in_float: of every node of a placement, with the activation it would absorb.
        on_integers: of the same nodes.
        conversions: of the values that may have to be converted.
    """

    in_float: Mapping[ir.Node, float]
    on_integers: Mapping[ir.Node, float]
    conversions: Mapping[ir.Value, Conversion]


def min_cost_partition(
    placement: Placement, costs: Costs, *, conversion_weight: float
) -> set[ir.Node]:
    """Find the nodes of `placement` that are to run on integers.

    Nodes without weights do so only where all that they read comes from integers, or may be
    read as integers by a layer: `place` takes those back of which no layer does. Of several
    cheapest partitions it is the one with most integers.

    Args:
        placement: the largest one.
        costs: of its nodes and values.
        conversion_weight: factor of the costs of conversions.
    """
    graph = MinCutGraph()
    vertices = {node: graph.vertex() for node in placement.nodes}
    for node, vertex in vertices.items():
        graph.edge(graph.SOURCE, vertex, costs.in_float[node])
        graph.edge(vertex, graph.SINK, costs.on_integers[node])
        _require_integer_inputs(graph, node, vertices)
    absorbed = {activation.outputs[0] for activation in placement.absorbed}
    for value, conversion in costs.conversions.items():
        producer = source(value) if value in absorbed else value.producer()
        weighted = Conversion(
            conversion.to_integers * conversion_weight, conversion.to_float * conversion_weight
        )
        _add_conversion(graph, value, _vertex(producer, vertices), weighted, vertices)
    on_integers = graph.source_side()
    return {node for node, vertex in vertices.items() if vertex in on_integers}


def _require_integer_inputs(
    graph: MinCutGraph, node: ir.Node, vertices: Mapping[ir.Node, int]
) -> None:
    """Put a node without weights on integers only behind integers."""
    rule = spec_of(node).quant
    if rule is None or rule.kind == "compute":
        return
    for port in rule.ports(node):
        if not read_by_layer(node.inputs[port], vertices):
            graph.edge(vertices[node], _vertex(source(node.inputs[port]), vertices), math.inf)


def _add_conversion(
    graph: MinCutGraph,
    value: ir.Value,
    producer: int,
    conversion: Conversion,
    vertices: Mapping[ir.Node, int],
) -> None:
    """Charge for a value once, in each direction, if its producer and a reader are parted."""
    on_integers, in_float = _readers(value, vertices)
    if on_integers:
        quantized = graph.vertex()
        graph.edge(quantized, producer, conversion.to_integers)
        for reader in on_integers:
            graph.edge(reader, quantized, math.inf)
    if producer != graph.SINK:
        dequantized = graph.vertex()
        graph.edge(producer, dequantized, conversion.to_float)
        for reader in on_integers:
            graph.edge(dequantized, reader, math.inf)
        if in_float:
            graph.edge(dequantized, graph.SINK, math.inf)


def _vertex(node: ir.Node | None, vertices: Mapping[ir.Node, int]) -> int:
    """Nodes that are no candidates, graph inputs and constants are in float."""
    return MinCutGraph.SINK if node is None else vertices.get(node, MinCutGraph.SINK)


def _readers(value: ir.Value, vertices: Mapping[ir.Node, int]) -> tuple[Sequence[int], bool]:
    """Vertices of nodes that may read `value` as integers, and whether others read it."""
    found: dict[int, None] = {}
    in_float = value.is_graph_output()
    for use in value.uses():
        if reads_integers(use.node, use.idx, vertices):
            found[vertices[use.node]] = None
        else:
            in_float = True
    return list(found), in_float


#: A remaining capacity below this fraction of the largest one is rounding.
_ROUNDING = 1e-12


class MinCutGraph:
    """A directed graph between a source (vertex 0) and a sink (vertex 1)."""

    SOURCE, SINK = 0, 1

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # of every vertex, the edges that leave it
        self._head: list[int] = []
        self._room: list[float] = []  # of edge i; i ^ 1 is the way back
        self._largest = 0.0

    def vertex(self) -> int:
        """Add a vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, tail: int, head: int, capacity: float) -> None:
        """Add an edge: its capacity is the cost of `tail` on the source's side without `head`.

        An infinite one says that `head` is on the source's side wherever `tail` is.
        """
        if capacity <= 0:
            return
        if math.isfinite(capacity):
            self._largest = max(self._largest, capacity)
        for start, end, room in ((tail, head, capacity), (head, tail, 0.0)):
            self._edges[start].append(len(self._head))
            self._head.append(end)
            self._room.append(room)

    def source_side(self) -> set[int]:
        """The source's side of a minimum cut, the largest one if there are several."""
        while (levels := self._levels())[self.SINK] is not None:
            self._saturate(levels)
        # Whatever cannot reach the sink any more may be on the source's side.
        reaching, queue = {self.SINK}, deque([self.SINK])
        while queue:
            for edge in self._edges[queue.popleft()]:
                tail = self._head[edge]
                if tail not in reaching and self._open(edge ^ 1):
                    reaching.add(tail)
                    queue.append(tail)
        return set(range(len(self._edges))) - reaching

    def _open(self, edge: int) -> bool:
        return self._room[edge] > self._largest * _ROUNDING

    def _levels(self) -> list[int | None]:
        """Distance of every vertex from the source along open edges; None if out of reach."""
        levels: list[int | None] = [None] * len(self._edges)
        levels[self.SOURCE] = 0
        queue = deque([self.SOURCE])
        while queue:
            vertex = queue.popleft()
            below = levels[vertex]
            assert below is not None
            for edge in self._edges[vertex]:
                if self._open(edge) and levels[self._head[edge]] is None:
                    levels[self._head[edge]] = below + 1
                    queue.append(self._head[edge])
        return levels

    def _saturate(self, levels: list[int | None]) -> None:
        """Fill paths along rising levels until none is left."""
        following = [0] * len(self._edges)
        path: list[int] = []
        vertex = self.SOURCE
        while True:
            if vertex == self.SINK:
                flow = min(self._room[edge] for edge in path)
                for edge in path:
                    self._room[edge] -= flow
                    self._room[edge ^ 1] += flow
                full = next(i for i, edge in enumerate(path) if not self._open(edge))
                vertex = self._head[path[full] ^ 1]
                del path[full:]
            level = levels[vertex]
            while following[vertex] < len(self._edges[vertex]):
                edge = self._edges[vertex][following[vertex]]
                if self._open(edge) and level is not None and levels[self._head[edge]] == level + 1:
                    break
                following[vertex] += 1
            else:
                if not path:
                    return
                vertex = self._head[path.pop() ^ 1]
                following[vertex] += 1
                continue
            path.append(edge)
            vertex = self._head[edge]
