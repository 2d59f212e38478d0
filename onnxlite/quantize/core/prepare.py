"""What integers need that floats do not: rewritten in the model before placement."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.builder import GraphBuilder, replace_node
from onnxlite.graph import (
    attribute,
    const_array,
    describe,
    is_op,
    iter_nodes,
    rank,
)
from onnxlite.normalize import normalize
from onnxlite.ops import spec_of
from onnxlite.opset import upgrade_opset
from onnxlite.records import Skipped

#: Per-channel DequantizeLinear came with this opset.
OPSET = 13


def already_quantized(model: ir.Model) -> str | None:
    """Why a model cannot be quantized again, or None."""
    for node in iter_nodes(model):
        if spec_of(node).quantized:
            return (
                f"the model is quantized already: it has a {describe(node)}; "
                "quantize the float model that it was made from"
            )
    return None


def prepare(model: ir.Model, opset: int = OPSET) -> tuple[ir.Model | Skipped, list[Skipped]]:
    """The model normalised, at an opset with per-channel integers, and with shapes.

    Args:
        model: changed in place.
        opset: the least one that the integer form needs.

    Returns:
        The model, or why it cannot be had; and what normalising skipped.
    """
    skipped = list(normalize(model))
    upgraded = upgrade_opset(model, opset)
    if isinstance(upgraded, Skipped):
        return upgraded, [*skipped, upgraded]
    normalize(upgraded)  # the converter writes Constant nodes
    infer_shapes(upgraded)
    return upgraded, skipped


def pool_means(model: ir.Model) -> int:
    """Rewrite means over space as pooling, in place; returns how many.

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
