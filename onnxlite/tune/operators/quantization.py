"""Q and DQ nodes with gradients: what is trained is what the graph says.

The integers between the two are held in float, so that gradients pass. Rounding passes them
straight through and what lies outside of the range stops them. With that the gradient for a
scale is that of LSQ (Esser et al. 2020, eq. 3) without a rule of its own: of
`(round(x / s) - z) s` it is `round(x / s) - x / s` inside, and the bound outside.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.tune.operators.call import Call, Operators

#: Least and greatest value of the integer types.
RANGES = {
    ir.DataType.INT2: (-2, 1),
    ir.DataType.UINT2: (0, 3),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest, halves to even; the gradient is that of the identity."""
    return x + (x.round() - x).detach()


def _quantize(call: Call) -> Tensor:
    low, high = RANGES.get(_integer_type(call), (0, 0))
    if low == high:
        call.refuse("the integer type")
    scale, zero = _like(call, call.inputs[1]), call.get(2)
    steps = round_through(call.x / scale)
    if zero is not None:
        steps = steps + _like(call, zero).to(steps.dtype)
    return steps.clamp(low, high)


def _dequantize(call: Call) -> Tensor:
    scale, zero = _like(call, call.inputs[1]), call.get(2)
    steps = call.x.to(scale.dtype)
    if zero is not None:
        steps = steps - _like(call, zero).to(scale.dtype)
    return steps * scale


def _integer_type(call: Call) -> ir.DataType:
    port = call.node.inputs[2] if len(call.node.inputs) > 2 else None
    if port is not None:
        found = port.const_value.dtype if port.const_value is not None else port.dtype
        if found is not None:
            return found
    return ir.DataType(call.attr("output_dtype", 0) or ir.DataType.UINT8)


def _like(call: Call, value: Tensor) -> Tensor:
    """A scale or zero point, spread over its axis or over the blocks of one."""
    x, axis = call.x, call.attr("axis", 1)
    if value.dim() == 0 or (value.numel() == 1 and value.dim() < 2):
        return value.reshape(())
    axis %= x.dim()
    block = call.attr("block_size", 0)
    if block:
        return value.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return value.reshape([-1 if a == axis else 1 for a in range(x.dim())])


def _dynamic(call: Call) -> tuple[Tensor, ...]:
    x = call.x
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).round().clamp(0, 255).detach()
    return (round_through(x / scale) + zero).clamp(0, 255), scale, zero


def _matmul_integer(call: Call) -> Tensor:
    """The product in float, which holds sums of 8-bit products exactly up to 2**24."""
    a, b = (value.to(torch.float32) for value in call.inputs[:2])
    for port in (2, 3):
        zero = call.get(port)
        if zero is None:
            continue
        zero = zero.to(torch.float32)
        if port == 2:
            a = a - (zero[:, None] if zero.dim() == 1 and zero.numel() > 1 else zero)
        else:
            b = b - zero
    return a @ b


OPERATORS: Operators = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": _matmul_integer,
    "QuantizeLinear": _quantize,
}
