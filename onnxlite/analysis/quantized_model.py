"""Quantized models: which steps must decline them, and the reason that names the right order.

Two forms have to be told apart:

    integer operators   Q and DQ nodes or integer kernels; ranges of activations belong to the
                        float model that they were found on
    packed weights      activations in float; each weight is decoded from packed integers, so
                        that other weights of the model can still be changed

Steps that change float weights or channels come before quantization.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxlite.graph import const_tensor, describe, iter_nodes
from onnxlite.ops import spec_of

#: Advice of the steps that would quantize a second time.
QUANTIZE_ONCE = "quantize the float model that it was made from"
#: Advice of the steps that prune.
PRUNE_FIRST = "prune the float model that it was made from, then quantize the result"
#: Integers of more bits are shapes and indices.
_BYTE = 8


def already_quantized(model: ir.Model, advice: str) -> str | None:
    """Give the reason to decline a model with integer operators; None for others.

    Args:
        model: any model; subgraphs are searched as well.
        advice: what to do instead, see `QUANTIZE_ONCE` and `PRUNE_FIRST`.
    """
    for node in iter_nodes(model):
        if spec_of(node).quantized:
            return f"the model is quantized already: it has a {describe(node)}; {advice}"
    return None


def computed_weights(model: ir.Model, advice: str) -> str | None:
    """Give the reason why weights cannot be changed: nodes compute them from constants.

    Weights that are packed integers need `advice`, others can be folded. None if all weights
    are constants.

    Args:
        model: any model; subgraphs are searched as well.
        advice: what to do instead of changing packed weights.
    """
    for node in iter_nodes(model):
        for port in spec_of(node).weights:
            value = node.inputs[port] if port < len(node.inputs) else None
            if value is None or const_tensor(value) is not None:
                continue
            types = list(_constants_behind(value))
            if None in types:
                continue
            if any(t is not None and t.is_integer() and t.bitwidth <= _BYTE for t in types):
                return f"the weights of {describe(node)} are decoded from packed integers: {advice}"
            return f"the weights of {describe(node)} are not constants: simplify the model first"
    return None


def _constants_behind(value: ir.Value) -> Iterator[ir.DataType | None]:
    """Types of the constants that a value is computed from, its data first; None for others."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        tensor, producer = const_tensor(value), value.producer()
        if tensor is not None:
            yield tensor.dtype
        elif producer is None or not producer.inputs:
            yield None
            return
        else:
            waiting += [v for v in reversed(producer.inputs) if v is not None]
