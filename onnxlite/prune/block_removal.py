"""Block removal: remove branches of sums (residual blocks), or zero-mask them."""

from __future__ import annotations

from collections.abc import Iterable, Set

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.branches import Branch, branches_of
from onnxlite.analysis.channels import ChannelMap
from onnxlite.builder import GraphBuilder
from onnxlite.graph import const_tensor, sole_consumer
from onnxlite.ops import output_bounds


def removed_branches(
    model: ir.Model, channels: ChannelMap, removed: NDArray[np.bool_]
) -> tuple[Branch, ...]:
    """Find the branches whose whole group is removed.

    Args:
        model: the model that `channels` was derived from.
        channels: units of the model.
        removed: bool[ids], True for removed units.
    """
    if not any(removed[group.units].all() for group in channels.groups if group.pin is None):
        return ()
    found = branches_of(model, channels).values()
    return tuple(b for b in found if removed[channels.groups[b.group].units].all())


def remove_branches(model: ir.Model, branches: Iterable[Branch]) -> None:
    """Rewrite in place: remove branches, with the weights that only they read.

    The value that replaces a sum gets its name if the sum and the branch are its only readers;
    `repair` then fits it to the sum of the original.
    """
    branches = tuple(branches)
    removed_nodes = {node for branch in branches for node in branch.nodes}
    for branch in branches:
        for node, port in branch.junctions:
            _replace_sum(node, port, removed_nodes)
    weights = dict.fromkeys(
        v for node in removed_nodes for v in node.inputs if const_tensor(v) is not None
    )
    for node in reversed(model.graph):
        if node in removed_nodes and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            model.graph.remove(node, safe=True)
    for value in weights:
        if value is not None and not value.uses() and not value.is_graph_output():
            model.graph.initializers.pop(value.name or "", None)


def zero_mask_branches(model: ir.Model, branches: Iterable[Branch]) -> None:
    """Rewrite in place: multiply the contributions of branches to sums by 0."""
    builder = GraphBuilder(model)
    for branch in branches:
        for node, port in branch.junctions:
            side = node.inputs[port]
            assert side is not None
            assert side.dtype is not None
            at = builder.before(node)
            zero = at.constant("zero_mask", np.zeros((), side.dtype.numpy()))
            masked = at.op("Mul", [side, zero], name=f"{side.name}_masked")
            node.replace_input_with(port, masked)


def _replace_sum(node: ir.Node, port: int, removed_nodes: Set[ir.Node]) -> None:
    others = [value for i, value in enumerate(node.inputs) if i != port and value is not None]
    if len(others) > 1:
        for index, value in enumerate(others):
            node.replace_input_with(index, value)
        node.resize_inputs(len(others))
        return
    (kept,) = others
    total = node.outputs[0]
    alone = _is_computed(kept) and all(use.node in removed_nodes for use in kept.uses())
    readers = [use.node for use in total.uses()]
    total.replace_all_uses_with(kept)
    if len(readers) == 1 and _repeats(readers[0], kept):
        (activation,) = readers
        activation.outputs[0].replace_all_uses_with(kept)
        assert activation.graph is not None
        activation.graph.remove(activation, safe=True)
        if alone:
            _rename(kept, activation.outputs[0])
            before = _activated(kept)
            if before is not None and _is_computed(before) and sole_consumer(before) is not None:
                _rename(before, total)
    elif alone:
        _rename(kept, total)


def _is_computed(value: ir.Value) -> bool:
    return value.producer() is not None and not value.is_graph_output()


def _repeats(node: ir.Node, value: ir.Value) -> bool:
    """Return True if an activation passes all outputs of the previous one unchanged."""
    bounds, inner = _range(node), _range(value.producer())
    if bounds is None or inner is None or node.outputs[0].is_graph_output():
        return False
    return bounds[0] <= inner[0] and inner[1] <= bounds[1]


def _range(node: ir.Node | None) -> tuple[float, float] | None:
    return None if node is None else output_bounds(node)


def _activated(value: ir.Value) -> ir.Value | None:
    producer = value.producer()
    return None if producer is None else producer.inputs[0]


def _rename(value: ir.Value, to: ir.Value) -> None:
    """Rename `value` to the name of a removed value."""
    name = to.name
    to.name = None
    value.name = name
