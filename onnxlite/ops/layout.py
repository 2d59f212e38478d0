"""Operators that move values or pool them, without computing with weights."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.ops.spec import OpSpec, QuantRule

#: The output holds only values of the input, so both have one scale.
_MOVES = QuantRule(kind="layout", shared_scale=True)
_AVERAGES = QuantRule(kind="integer")


def _resize_refusal(node: ir.Node) -> str | None:
    if attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation leaves the range of its input"
    return None


def _interpolates(node: ir.Node) -> bool:
    """ONNX Runtime's integer kernel cuts interpolated values off instead of rounding them."""
    return bool(attribute(node, "mode", "nearest") != "nearest")


_RESIZES = QuantRule(
    kind="layout", shared_scale=True, refuses=_resize_refusal, computes=_interpolates
)

LAYOUT = (
    *(
        OpSpec(op_type=name, quant=_MOVES, linear=True)
        for name in (
            "Reshape",
            "Flatten",
            "Transpose",
            "Squeeze",
            "Unsqueeze",
            "Slice",
            "Split",
            "Expand",
            "Tile",
            "MaxPool",
        )
    ),
    # Only these two also move weights: an embedding table, a resized parameter.
    OpSpec(op_type="Gather", quant=_MOVES, weights=(0,), linear=True),
    OpSpec(op_type="Resize", quant=_RESIZES, linear=True),
    OpSpec(
        op_type="Concat",
        quant=QuantRule(kind="integer", inputs=None, shared_scale=True),
        linear=True,
    ),
    OpSpec(op_type="AveragePool", quant=_AVERAGES, linear=True),
    OpSpec(op_type="GlobalAveragePool", quant=_AVERAGES, linear=True),
)
