"""Q and DQ nodes in one: the pair takes as many passes over its data as one of the two.

    x -> QuantizeLinear(scale, zero) -> DequantizeLinear(scale, zero) -> y

    y = (clip(round(x / s) + z, low, high) - z) s

Gradients are those of the two nodes one after the other (`quantization.py`), that is, LSQ's
(Esser et al. 2020, eq. 3).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.graph import const_array, const_tensor, is_op
from onnxlite.tune.operators.call import Call
from onnxlite.tune.operators.quantization import RANGES

DOMAIN, FAKE = "onnxlite.tune", "FakeQuantize"


class _Pair(torch.autograd.Function):  # type: ignore[misc]  # torch has no types for it
    """x: float32, scale: float32 with one element; bounds are those of `steps - zero`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        exact = x / scale
        y = exact.round().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(exact, y, scale)
        ctx.bounds = (low - 0.5, high + 0.5)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grads
        exact, y, scale = ctx.saved_tensors
        inside = torch.ops.aten.hardtanh_backward(grad, exact, *ctx.bounds)
        by_scale = (grad * y).sum() / scale.reshape(()) - (inside * exact).sum()
        return inside, by_scale.reshape(scale.shape), None, None


def fake_quantize(call: Call) -> Tensor:
    """Compute the pair."""
    low, high = call.attr("bounds")
    result: Tensor = _Pair.apply(call.x, call.inputs[1], low, high)
    return result


def fuse_pairs(graph: ir.Graph) -> None:
    """Put one node in the place of each DQ node behind a Q node of the same single scale.

    The Q node stays where something else reads its integers.
    """
    for node in list(graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if source is None or not is_op(node, "DequantizeLinear"):
            continue
        if not is_op(source, "QuantizeLinear") or source.graph is not graph:
            continue
        bounds = _bounds(source, node)
        if bounds is None:
            continue
        node.replace_input_with(0, source.inputs[0])
        node.resize_inputs(2)
        node.domain, node.op_type = DOMAIN, FAKE
        node.attributes["bounds"] = ir.AttrInt64s("bounds", bounds)
        if not source.outputs[0].uses() and not source.outputs[0].is_graph_output():
            graph.remove(source, safe=True)


def _bounds(source: ir.Node, node: ir.Node) -> tuple[int, int] | None:
    scales = [n.inputs[1] for n in (source, node)]
    tensor = const_tensor(scales[0])
    if scales[0] is not scales[1] or tensor is None or tensor.size != 1:
        return None
    if tensor.dtype != ir.DataType.FLOAT:
        return None
    zeros = [n.inputs[2] if len(n.inputs) > 2 else None for n in (source, node)]
    if zeros[0] is not zeros[1] or zeros[0] is None or zeros[0].const_value is None:
        return None
    array, dtype = const_array(zeros[0]), zeros[0].const_value.dtype
    if array is None or array.size != 1 or dtype not in RANGES or dtype == ir.DataType.INT32:
        return None
    zero = int(array.astype(np.int64).reshape(()))
    low, high = RANGES[dtype]
    return low - zero, high - zero
