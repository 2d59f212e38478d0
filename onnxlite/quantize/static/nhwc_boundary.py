"""NHWC boundary: images enter integer layers channels last, if that saves Transposes.

ONNX Runtime's integer convolutions take channels last. Its optimizer puts a Transpose before and
behind each and moves them until they cancel; past a sum only where both sides bring one. The skip
of a residual block that begins at a float layer brings none, so that its sum, and that of each
block behind it, is computed channels first, between Transposes. So the skip is given one:

    x -> Q      becomes      x -> Transpose -> Reshape -> Q -> DQ -> Transpose -> Q

The Reshape changes nothing, but the optimizer does not look through it: without it both new
Transposes would be cancelled before any is made for a convolution. The Transposes are counted in
the graph that ONNX Runtime has optimized.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.builder import GraphBuilder
from onnxlite.graph import const_array, is_op, rank, sole_consumer
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.quantize.core.selection import source
from onnxlite.quantize.core.targets import Target
from onnxlite.records import Skipped
from onnxlite.runtime import optimized_operators

_WHAT = "borders-channels-last"
_IMAGE = 4
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
#: Transposes that must go: the rewrite adds a Transpose and a Reshape.
_MIN_SAVED = 2


def add_nhwc_boundaries(model: ir.Model, target: Target) -> tuple[ir.Model, int, list[Skipped]]:
    """Make values channels last that go from float layers to integer layers and to a sum.

    Args:
        model: in QDQ form, with shapes; it is not changed.
        target: what it is made for.

    Returns:
        The model or a rewritten copy, how many values were rewritten, and why none was.

    Raises:
        ExecutionError: ONNX Runtime does not load one of the models.
    """
    if not target.channels_last or not any(map(_is_border, model.graph)):
        return model, 0, []
    rewritten = clone(model)
    found = [node for node in rewritten.graph if _is_border(node)]
    names = ", ".join(node.inputs[0].name or "" for node in found if node.inputs[0] is not None)
    builder = GraphBuilder(rewritten)
    for node in found:
        _rewrite(builder, node)
    before, after = (optimized_operators(each)["Transpose"] for each in (model, rewritten))
    if after > before - _MIN_SAVED:
        reason = f"ONNX Runtime would run {after} Transposes, and runs {before} as it is: no gain"
        return model, 0, [Skipped(_WHAT, names, "no-gain", reason)]
    return rewritten, len(found), []


def _is_border(node: ir.Node) -> bool:
    """Tell whether a Q takes an image from a float layer to integer layers and to a sum."""
    data = node.inputs[0] if is_op(node, "QuantizeLinear") else None
    if data is None or rank(data) != _IMAGE or data.const_value is not None:
        return False
    scale, dequantize = const_array(node.inputs[1]), sole_consumer(node.outputs[0])
    if scale is None or scale.size != 1 or not is_op(dequantize, "DequantizeLinear"):
        return False
    assert dequantize is not None
    readers = [use.node for use in dequantize.outputs[0].uses()]
    sums = [spec_of(reader).sums for reader in readers]
    return any(sums) and not all(sums) and not _on_integers(data)


def _on_integers(value: ir.Value) -> bool:
    """Tell whether the layer that makes a value, behind an activation, reads integers."""
    layer = source(value)
    rule = None if layer is None else spec_of(layer).quant
    if layer is None or rule is None:
        return False
    read = [layer.inputs[port] for port in rule.ports(layer)]
    return any(v is not None and is_op(v.producer(), "DequantizeLinear") for v in read)


def _rewrite(builder: GraphBuilder, node: ir.Node) -> None:
    data, scale, *zero = node.inputs
    assert data is not None
    name, params = data.name or "image", [scale, *zero]
    at = builder.before(node)
    same = at.constant(f"{name}_same_shape", np.zeros(_IMAGE, np.int64))
    last = at.op("Transpose", [data], {"perm": list(_LAST)}, name=f"{name}_last")
    kept = at.op("Reshape", [last, same], name=f"{name}_kept")
    integers = at.op("QuantizeLinear", [kept, *params], name=f"{name}_last_q")
    real = at.op("DequantizeLinear", [integers, *params], name=f"{name}_last_dq")
    first = at.op("Transpose", [real], {"perm": list(_FIRST)}, name=f"{name}_first")
    node.replace_input_with(0, first)
