"""Operators that work value by value, with NumPy's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.operators.call import Call, OperatorFunction, Operators

#: Types whose values torch holds in a wider one, which has more bits to turn over.
_HELD_WIDER = {ir.DataType.UINT16: 16, ir.DataType.UINT32: 32, ir.DataType.UINT64: 64}


def _unary(function: Callable[[Tensor], Tensor]) -> OperatorFunction:
    return lambda call: function(call.x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> OperatorFunction:
    return lambda call: function(*call.inputs)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> OperatorFunction:
    return lambda call: reduce(function, call.given())


def _activation(
    function: Callable[..., Tensor], default: tuple[float, ...], *names: str
) -> OperatorFunction:
    """An activation with attributes, passed in the order of `names`."""

    def run(call: Call) -> Tensor:
        return function(call.x, *(call.attr(n, d) for n, d in zip(names, default, strict=True)))

    return run


def _div(a: Tensor, b: Tensor) -> Tensor:
    # Whole numbers are divided towards zero, as in C.
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _pow(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b.to(a.dtype) if a.is_floating_point() else b).to(a.dtype)


def _mod(call: Call) -> Tensor:
    return (torch.fmod if call.attr("fmod", 0) else torch.remainder)(*call.inputs)


def _mean(call: Call) -> Tensor:
    return reduce(torch.add, call.given()) / len(call.given())


def _clip(call: Call) -> Tensor:
    if call.opset < 11:
        return call.x.clamp(call.attr("min"), call.attr("max"))
    low, high = call.get(1), call.get(2)
    x = call.x
    bounds = [bound for bound in (low, high) if bound is not None]
    if x.is_floating_point() and not any(bound.requires_grad for bound in bounds):
        # One pass forward and one back: tensors as bounds would take six times as long.
        ends = (-math.inf if low is None else low.item(), math.inf if high is None else high.item())
        if ends[0] <= ends[1]:
            return F.hardtanh(x, *ends)
    if low is not None:
        x = torch.maximum(x, low.reshape(()).to(x.dtype))
    return x if high is None else torch.minimum(x, high.reshape(()).to(x.dtype))


def _cast(call: Call) -> Tensor:
    return call.x.to(call.dtype(call.attr("to")))


def _cast_like(call: Call) -> Tensor:
    return call.x.to(call.inputs[1].dtype)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.x, approximate=call.attr("approximate", "none"))


def _prelu(call: Call) -> Tensor:
    return torch.where(call.x < 0, call.x * call.inputs[1], call.x)


def _selu(call: Call) -> Tensor:
    gamma, alpha = call.attr("gamma", 1.0507009873554805), call.attr("alpha", 1.6732632423543772)
    return gamma * F.elu(call.x, alpha)


def _celu(call: Call) -> Tensor:
    alpha = call.attr("alpha", 1.0)
    return F.celu(call.x, alpha)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _shrink(x: Tensor, lambd: float, bias: float) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero))


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _is_inf(call: Call) -> Tensor:
    found = torch.zeros_like(call.x, dtype=torch.bool)
    if call.attr("detect_positive", 1):
        found = found | torch.isposinf(call.x)
    return found | torch.isneginf(call.x) if call.attr("detect_negative", 1) else found


def _bitwise_not(call: Call) -> Tensor:
    found = call.node.inputs[0]
    if found is not None and found.dtype in _HELD_WIDER:
        call.refuse(f"type {found.dtype.name}")
    return torch.bitwise_not(call.x)


def _bit_shift(call: Call) -> Tensor:
    a, b = call.inputs
    found = call.node.inputs[0]
    held = _HELD_WIDER.get(found.dtype) if found is not None and found.dtype else None
    if a.dtype == torch.int64 and held is None:
        held = 64  # only unsigned integers are shifted
    if call.attr("direction") == "LEFT":
        return (a << b) & ((1 << held) - 1) if held in (16, 32) else a << b
    if held != 64:
        return a >> b
    # torch repeats the sign: what came in from above is cleared.
    return torch.where(b == 0, a, (a >> b) & ((1 << (64 - b.clamp_min(1))) - 1))


def _dropout(call: Call) -> tuple[Tensor, ...]:
    training = call.get(2)
    if training is not None and bool(training):
        call.refuse("training_mode")
    return call.x, torch.ones_like(call.x, dtype=torch.bool)


def _where(call: Call) -> Tensor:
    condition, a, b = call.inputs
    return torch.where(condition, a, b)


OPERATORS: Operators = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": _bit_shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _bitwise_not,
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _binary(_div),
    "Dropout": _dropout,
    "Elu": _activation(F.elu, (1.0,), "alpha"),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _activation(_hard_sigmoid, (0.2, 0.5), "alpha", "beta"),
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "IsInf": _is_inf,
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": _activation(F.leaky_relu, (0.01,), "alpha"),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(_pow),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Shrink": _activation(_shrink, (0.5, 0.0), "lambd", "bias"),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": _activation(_swish, (1.0,), "alpha"),
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": _activation(_thresholded_relu, (1.0,), "alpha"),
    "Where": _where,
    "Xor": _binary(torch.logical_xor),
}
