"""Preparation of a float model: opset, shapes and rewrites that integer kernels need."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.builder import GraphBuilder, replace_node
from onnxlite.graph import attribute, const_array, is_op, rank
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.records import Skipped

#: Per-channel DequantizeLinear came with this opset.
OPSET = 13


def prepare(model: ir.Model, opset: int = OPSET) -> tuple[ir.Model | Skipped, list[Skipped]]:
    """Normalize a model, bring it to an opset with per-channel integers, and infer shapes.

    Args:
        model: it is not changed.
        opset: the least one that the integer form needs.

    Returns:
        The prepared copy or the reason against it, and what normalization skipped.
    """
    model = clone(model)
    skipped = list(normalize(model))
    upgraded = upgrade_opset(model, opset)
    if isinstance(upgraded, Skipped):
        return upgraded, [*skipped, upgraded]
    normalize(upgraded)  # the converter writes Constant nodes
    infer_shapes(upgraded)
    return upgraded, skipped


def pool_means(model: ir.Model) -> int:
    """Rewrite in place: means over space become pooling; returns their number.

    ReduceMean(x, axes 2, 3) -> GlobalAveragePool(x) [-> Flatten]

    ReduceMean has no integer kernel in ONNX Runtime, GlobalAveragePool does. It is done here
    and not by `simplify` where it takes one node more.
    """
    means = [node for node in model.graph if _is_mean_over_space(node)]
    builder = GraphBuilder(model)
    for node in means:
        at = builder.before(node)
        pooled = at.op("GlobalAveragePool", node.inputs[:1], name=f"{node.name}_pool")
        pooled.type = node.outputs[0].type
        if not attribute(node, "keepdims", 1):
            pooled = at.op("Flatten", [pooled], {"axis": 1}, name=f"{node.name}_flat")
        replace_node(node, [pooled])
    return len(means)


def _is_mean_over_space(node: ir.Node) -> bool:
    if not is_op(node, "ReduceMean") or rank(node.inputs[0]) != 4:
        return False
    axes = attribute(node, "axes")
    if axes is None and len(node.inputs) > 1:
        constant = const_array(node.inputs[1])
        axes = None if constant is None else constant.tolist()
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]
