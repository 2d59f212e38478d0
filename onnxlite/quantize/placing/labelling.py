"""Float or integers for every node, so that nodes and the conversions between them cost least.

Each node has a time on either side; where a value passes from one side to the other it is
converted once, however many nodes read it. The cheapest labelling is a minimum cut (Picard &
Ratliff 1975; Kolmogorov & Zabih 2004, the auxiliary vertices): the source's side runs on
integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.ops import spec_of
from onnxlite.quantize.placing.min_cut import CutGraph
from onnxlite.quantize.placing.placement import Placement, read_by_layer, reads_integers, source


@dataclass(frozen=True)
class Conversion:
    """Seconds to take one value to the other side."""

    to_integers: float
    to_float: float


@dataclass(frozen=True)
class Costs:
    """Everything that a labelling can cost, in seconds.

    Attributes:
        in_float: of every node of a placement, with the activation it would absorb.
        on_integers: of the same nodes.
        conversions: of the values that a labelling may have to convert.
    """

    in_float: Mapping[ir.Node, float]
    on_integers: Mapping[ir.Node, float]
    conversions: Mapping[ir.Value, Conversion]


def cheapest(placement: Placement, costs: Costs, *, conversion_weight: float) -> set[ir.Node]:
    """Those nodes of `placement` that are to run on integers.

    Nodes without weights do so only where all that they read comes from integers, or may be
    read as integers by a layer: `place` takes those back of which no layer does. Of several
    cheapest labellings it is the one with most integers.

    Args:
        placement: the largest one.
        costs: of its nodes and values.
        conversion_weight: conversions count so many times.
    """
    graph = CutGraph()
    vertices = {node: graph.vertex() for node in placement.nodes}
    for node, vertex in vertices.items():
        graph.edge(graph.SOURCE, vertex, costs.in_float[node])
        graph.edge(vertex, graph.SINK, costs.on_integers[node])
        rule = spec_of(node).quant
        if rule is not None and rule.kind != "compute":
            for port in rule.ports(node):
                if not read_by_layer(node.inputs[port], vertices):
                    graph.edge(vertex, _vertex(source(node.inputs[port]), vertices), math.inf)
    absorbed = {activation.outputs[0] for activation in placement.absorbed}
    for value, conversion in costs.conversions.items():
        producer = source(value) if value in absorbed else value.producer()
        maker = _vertex(producer, vertices)
        on_integers, in_float = _readers(value, vertices)
        if on_integers:
            quantized = graph.vertex()
            graph.edge(quantized, maker, conversion.to_integers * conversion_weight)
            for reader in on_integers:
                graph.edge(reader, quantized, math.inf)
        if maker != graph.SINK:
            dequantized = graph.vertex()
            graph.edge(maker, dequantized, conversion.to_float * conversion_weight)
            for reader in on_integers:
                graph.edge(dequantized, reader, math.inf)
            if in_float:
                graph.edge(dequantized, graph.SINK, math.inf)
    chosen = graph.source_side()
    return {node for node, vertex in vertices.items() if vertex in chosen}


def _vertex(node: ir.Node | None, vertices: Mapping[ir.Node, int]) -> int:
    """Nodes that are no candidates, graph inputs and constants are in float."""
    return CutGraph.SINK if node is None else vertices.get(node, CutGraph.SINK)


def _readers(value: ir.Value, vertices: Mapping[ir.Node, int]) -> tuple[Sequence[int], bool]:
    """Vertices of the nodes that may read `value` as integers, and whether others read it."""
    found: dict[int, None] = {}
    in_float = value.is_graph_output()
    for use in value.uses():
        if reads_integers(use.node, use.idx, vertices):
            found[vertices[use.node]] = None
        else:
            in_float = True
    return list(found), in_float
