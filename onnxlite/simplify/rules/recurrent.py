"""Recurrent layers without what they assume anyway."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.simplify.patterns import small_const
from onnxlite.simplify.rewrite import Context, Outcome, Replacement, rule

_MAX_DEPTH = 8
#: Operators that only move values, by their data input.
_MOVES = ("Expand", "Slice", "Split", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Gather",
          "Identity", "Tile")  # fmt: skip


@rule("drop-zero-state", "LSTM", "GRU", "RNN")
def drop_zero_state(node: ir.Node, context: Context) -> Outcome:
    """LSTM(x, ..., initial states of zeros) -> LSTM(x, ...): zero is the default.

    The batch size that the zeros needed is no longer computed.
    """
    inputs = list(node.inputs)
    for port in (5, 6):
        if port < len(inputs) and inputs[port] is not None and _is_zero(inputs[port], depth=0):
            inputs[port] = None
    if inputs == list(node.inputs):
        return None
    while inputs[-1] is None:
        inputs.pop()
    new = ir.Node("", node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
    for old, output in zip(node.outputs, new.outputs, strict=True):
        if not old.name:
            output.name = ""
    pairs = zip(node.outputs, new.outputs, strict=True)
    return Replacement((new,), tuple((old, output) for old, output in pairs if old.name))


def _is_zero(value: ir.Value | None, *, depth: int) -> bool:
    """Whether every element of `value` is certainly zero."""
    if value is None or depth > _MAX_DEPTH:
        return False
    array = small_const(value)
    if array is not None:
        return not array.any()
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "ConstantOfShape":
        fill = attribute(node, "value")
        return fill is None or not fill.numpy().any()
    return node.op_type in _MOVES and _is_zero(node.inputs[0], depth=depth + 1)


RULES = (drop_zero_state,)
