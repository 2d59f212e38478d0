"""Widths of activations: 16 bits for the layers that a caller names, 8 for all others.

A value has the width of the node that makes it, and a reader of the other width gets the
value converted. What only moves values has the width of what it moves.

    x -> Q16 -> DQ16 -> Conv16 -> Q16 -> DQ16 -> Q8 -> DQ8 -> Conv8
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import ActivationBits, Placement, reads_integers
from onnxlite.records import Skipped

#: The standard QuantizeLinear has 16-bit types since this opset.
OPSET = 21


def assign_activation_bits(
    placement: Placement, patterns: Sequence[str]
) -> tuple[ActivationBits, list[Skipped]]:
    """Give 16 bits to the layers that match a pattern (`fnmatch`, of node names).

    Returns:
        The widths, and a row for every pattern that names nothing on integers.
    """
    if not patterns:
        return ActivationBits(), []
    nodes: set[ir.Node] = set()
    unused: list[Skipped] = []
    for pattern in patterns:
        found = [node for node in placement.nodes if fnmatchcase(node.name or "", pattern)]
        nodes.update(node for node in found if not _moves(node))
        if not found:
            unused.append(
                Skipped("int16", pattern, "no-match", "no node on integers has such a name")
            )
    chosen = set(placement.nodes)
    absorbed = {node.inputs[0]: node.outputs[0] for node in placement.absorbed}
    made = {absorbed.get(output, output) for node in chosen for output in node.outputs}
    values = {
        value
        for value in placement.values
        if value not in made
        and any(use.node in nodes and reads_integers(*use, chosen) for use in value.uses())
    }
    for node in placement.nodes:
        if _moves(node) and node.inputs[0] in values:
            nodes.add(node)
        if node in nodes:
            values.update(absorbed.get(output, output) for output in node.outputs)
    return ActivationBits(frozenset(nodes), frozenset(values)), unused


def _moves(node: ir.Node) -> bool:
    rule = spec_of(node).quant
    return rule is not None and rule.kind == "layout"
