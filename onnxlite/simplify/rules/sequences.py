"""Sequence models: constant tokens and zero initial states."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, rank, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    const_operand,
    ints,
    owned_by,
    replace_with,
    rule,
    small_const,
)


@rule("token-to-pad", "Add")
def token_to_pad(node: ir.Node, context: Context) -> Outcome:
    """Concat(Expand(token), x) + embedding -> Pad(x) + (embedding with the token added).

    The batch size that Expand needed is no longer computed. Declines unless token and
    embedding are constants of one batch that cover the padded axis. Needs opset 11.
    """
    operand = const_operand(node)
    concat = owned_by(operand.data, "Concat", like=node) if operand is not None else None
    if operand is None or concat is None or len(concat.inputs) != 2 or context.opset < 11:
        return None
    dims = rank(operand.data)
    port = 0 if owned_by(concat.inputs[0], "Expand", like=concat) is not None else 1
    expand = owned_by(concat.inputs[port], "Expand", like=concat)
    data = concat.inputs[1 - port]
    token = small_const(expand.inputs[0]) if expand is not None else None
    if dims is None or token is None or token.ndim != dims or data is None:
        return None
    axis = int(attribute(concat, "axis", 0)) % dims
    count, length = token.shape[axis], static_dim(data, axis)
    wide = (1,) * (dims - operand.array.ndim) + operand.array.shape
    if axis == 0 or length is None or token.shape[0] != 1 or wide[0] != 1:
        return None
    if wide[axis] != count + length or wide[1:axis] != token.shape[1:axis]:
        return None
    if wide[axis + 1 :] != token.shape[axis + 1 :]:
        return None
    if any(static_dim(data, i) != token.shape[i] for i in range(1, dims) if i != axis):
        return None
    embedding = np.array(operand.array.reshape(wide))
    place = [slice(None)] * dims
    place[axis] = slice(0, count) if port == 0 else slice(length, None)
    embedding[tuple(place)] += token
    pads = [0] * (2 * dims)
    pads[axis if port == 0 else dims + axis] = count
    padded = ir.node("Pad", [data, ints(pads, f"{node.name}_pads")])
    value = constant(embedding.astype(token.dtype), f"{node.name}_embedding")
    return replace_with(node, padded, ir.node("Add", [padded.outputs[0], value]))


_MAX_DEPTH = 8
#: Operators that only move values, by their data input.
_MOVES = ("Expand", "Slice", "Split", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Gather",
          "Identity", "Tile")  # fmt: skip


@rule("drop-zero-state", "LSTM", "GRU", "RNN")
def drop_zero_state(node: ir.Node, _context: Context) -> Outcome:
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
    """Return True if every element of `value` is certainly zero."""
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


RULES = (token_to_pad, drop_zero_state)
