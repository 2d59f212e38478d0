"""The fused Attention operator, whose units are whole heads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute
from onnxlite.ops.spec import OpSpec
from onnxlite.ops.tracker import Ids, Tracker, keep_axes, spread, tie_along, tracked_axes

_QKV = ("q_num_heads", "kv_num_heads", "kv_num_heads")
_MASK, _PAST = 3, (4, 5)


def attention(node: ir.Node, t: Tracker) -> None:
    """`[batch, length, heads*size]`, heads counted in attributes, or `[batch, heads, ...]`.

    A head of keys and values goes with the query heads that share it (Ainslie et al. 2023).
    """
    out = node.outputs[0]
    values = [value for value in node.inputs[:3] if value is not None]
    flat = len(t.shape(values[0])) == 3
    lines = [_heads(node, t, v, n, flat) for v, n in zip(values, _QKV, strict=True)]
    others = [v for v in node.inputs[_MASK:] if v is not None]
    with_past = any(port < len(node.inputs) and node.inputs[port] is not None for port in _PAST)
    mask = node.inputs[_MASK] if len(node.inputs) > _MASK else None
    full_mask = mask is not None and len(t.shape(mask)) == 4 and t.shape(mask)[1] > 1
    whole = with_past or full_mask or any(line is None for line in lines)
    for value in others:
        t.pin(t.ids(value), "it is a mask or a past state of attention")
    for value, line in zip(values, lines, strict=True):
        if whole or any(v.name for v in node.outputs[1:]):
            t.pin(t.ids(value), "attention on computed values without units, or with a state")
        assert line is None or line.ndim == 1
    queries, keys, content = lines
    if whole or queries is None or keys is None or content is None:
        return
    t.tie(keys, content)
    t.tie(queries.reshape(len(keys), -1), keys[:, None])
    if flat:
        t.recount("q_num_heads", queries, 0)
        t.recount("kv_num_heads", keys, 0)
        size = t.shape(out)[2] // len(queries)
        t.put(out, spread(np.repeat(queries, size), 2, 3))
    else:
        t.put(out, spread(queries, 1, 4))


def _heads(node: ir.Node, t: Tracker, value: ir.Value, count: str, flat: bool) -> Ids | None:
    """The line of heads of one operand; None if it has no units there."""
    ids = keep_axes(t, t.ids(value), (2 if flat else 1,), "attention works along its axis")
    if not tracked_axes(ids):
        return None
    if not flat:
        return ids.reshape(-1)
    return tie_along(t, ids.reshape(int(attribute(node, count)), -1), 1).reshape(-1)


ROWS = (OpSpec(op_type="Attention", channels=attention),)
