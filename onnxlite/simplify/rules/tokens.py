"""Constant tokens put before a sequence, as vision transformers do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, rank, static_dim
from onnxlite.simplify.patterns import const_operand, owned_by, small_const
from onnxlite.simplify.rewrite import Context, Outcome, ints, replace_with, rule


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


RULES = (token_to_pad,)
