"""A model whose random operators are replaced by tied noise, for measurements."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import onnx_ir as ir

from onnxlite.builder import replace_node
from onnxlite.graph import is_op, iter_graphs, subgraphs_of
from onnxlite.model import clone
from onnxlite.normalize import inline_functions
from onnxlite.ops.noise import NoiseBuilder, NoisePlace
from onnxlite.ops.table import OPS, spec_of

#: The first operator set in which all operators of the tied forms exist.
_FIRST_OPSET = 11

_NAMES = tuple(name.encode() for name, row in OPS.items() if row.random)


def is_random(node: ir.Node) -> bool:
    """Return True if a node's output differs from run to run; a Dropout of inference is not."""
    rule = spec_of(node).random
    return rule is not None and rule.draws(node)


def random_outputs(model: ir.Model) -> list[str]:
    """List the names of the outputs of random nodes, in bodies and functions too."""
    return [
        node.outputs[0].name or ""
        for graph in iter_graphs(model)
        for node in graph
        if is_random(node)
    ]


def may_draw(path: Path) -> bool:
    """Search a model file for the names of random operators, without reading it as a model."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return any(data.find(name) >= 0 for name in _NAMES)


def tie_noise(model: ir.Model) -> ir.Model:
    """Replace random operators by tied noise (`ops/noise.py`).

    Functions with random operators are inlined first, as every step does, so that their nodes
    have the same names here and there. Nodes in operator sets below 11 stay as they are.

    Returns:
        A copy, which shares tensors; `model` itself if it has no random operators.
    """
    if model.opset_imports.get("", 0) < _FIRST_OPSET or not random_outputs(model):
        return model
    copy = clone(model)
    if any(is_random(node) for each in copy.functions.values() for node in each.all_nodes()):
        inline_functions(copy)
    builder = NoiseBuilder(copy)
    for node, iteration in list(_random_nodes(copy.graph, None)):
        rule = spec_of(node).random
        assert rule is not None
        replace_node(node, rule.tie(node, NoisePlace(builder, node, iteration)))
    return copy


def _random_nodes(
    graph: ir.Graph, iteration: ir.Value | None
) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    """Yield random nodes, each with the number of the iteration of the Loop around it."""
    for node in graph:
        if is_random(node):
            yield node, iteration
        for body in subgraphs_of(node):
            yield from _random_nodes(body, body.inputs[0] if is_op(node, "Loop") else iteration)
