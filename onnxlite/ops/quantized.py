"""Operators of quantized models: Q and DQ, and kernels on integers."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.ops.spec import CONTRIB_DOMAIN, OpSpec
from onnxlite.ops.tracker import Tracker, line_of, spread, tracked_axes


def quantized(node: ir.Node, t: Tracker) -> None:
    """Scale and zero point per channel are bound like a weight; blocks pin."""
    value = node.inputs[0]
    assert value is not None
    ids = t.ids(value)
    scale = node.inputs[1]
    assert scale is not None
    if len(t.shape(scale)) == 1 and t.shape(scale) != (1,) and tracked_axes(ids):
        axis = attribute(node, "axis", 1) % ids.ndim
        if ids.shape[axis] > 1:
            line = line_of(t, ids, axis)
            t.bind(1, axis=0, line=line, fill=None)
            t.bind(2, axis=0, line=line, fill=None)
            ids = spread(line, axis, ids.ndim)
    elif len(t.shape(scale)) > 1:
        t.pin(ids, "it is quantized in blocks")
    t.put(node.outputs[0], ids)


_CONTRIB = (
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
)

ROWS = (
    OpSpec(op_type="QuantizeLinear", channels=quantized, quantized=True),
    OpSpec(op_type="DequantizeLinear", channels=quantized, quantized=True),
    OpSpec(op_type="DynamicQuantizeLinear", quantized=True),
    *(OpSpec(op_type=name, domain=CONTRIB_DOMAIN, quantized=True) for name in _CONTRIB),
)
