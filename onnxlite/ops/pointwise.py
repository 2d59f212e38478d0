"""Operators that work position by position, and the activations among them."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxlite.graph import attribute, scalar
from onnxlite.ops.spec import OpSpec, QuantRule


def _relu_range(_node: ir.Node) -> tuple[float, float]:
    return 0.0, math.inf


def _clip_range(node: ir.Node) -> tuple[float, float] | None:
    """Bounds from inputs (opset 11) or attributes (before); None if they are computed."""
    low, high = attribute(node, "min", -math.inf), attribute(node, "max", math.inf)
    for port in (1, 2):
        value = node.inputs[port] if port < len(node.inputs) else None
        if value is None:
            continue
        bound = scalar(value)
        if bound is None:
            return None
        low, high = (float(bound), high) if port == 1 else (low, float(bound))
    return float(low), float(high)


_BINARY = QuantRule(kind="integer", inputs=(0, 1))

POINTWISE = (
    OpSpec(op_type="Relu", output_range=_relu_range, linear=True),
    OpSpec(op_type="Clip", output_range=_clip_range),
    OpSpec(op_type="Add", quant=_BINARY, sums=True, shifts=(0, 1)),
    OpSpec(op_type="Sum", sums=True),
    OpSpec(op_type="Mul", quant=_BINARY),
    OpSpec(op_type="LeakyRelu", quant=QuantRule(kind="integer"), linear=True),
    OpSpec(op_type="PRelu", weights=(1,), linear=True),
    OpSpec(op_type="Sigmoid", quant=QuantRule(kind="integer", fixed_range=(0.0, 1.0))),
    OpSpec(op_type="Softmax", quant=QuantRule(kind="integer", fixed_range=(0.0, 1.0))),
    OpSpec(op_type="Identity", linear=True),
)
