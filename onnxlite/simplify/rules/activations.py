"""Activations that exporters write out as arithmetic, put back into one operator."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, constant, scalar
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Refused,
    Replacement,
    const_operand,
    made_by,
    near,
    other_input,
    owned_by,
    replace_with,
    rule,
    small_const,
)


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Lower and upper bound of a Clip or Relu, infinite where absent; None if computed."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    bounds = [attribute(node, "min", -math.inf), attribute(node, "max", math.inf)]
    for port in (1, 2):
        value = node.inputs[port] if port < len(node.inputs) else None
        if value is not None:
            number = scalar(value)
            if number is None:
                return None
            bounds[port - 1] = float(number)
    return float(bounds[0]), float(bounds[1])


def _clip(data: ir.Value, low: float, high: float, like: ir.Value, opset: int) -> ir.Node:
    """A Relu or Clip with these bounds on `data`, in the form that the opset wants."""
    if low == 0 and high == math.inf:
        return ir.node("Relu", [data])
    if opset < 11:
        finite = {"min": low, "max": high}
        return ir.node("Clip", [data], {k: v for k, v in finite.items() if math.isfinite(v)})
    assert like.dtype is not None
    dtype = like.dtype.numpy()
    inputs: list[ir.Value | None] = [data]
    for number, name in ((low, "min"), (high, "max")):
        inputs.append(constant(np.asarray(number, dtype), name) if math.isfinite(number) else None)
    while inputs[-1] is None:
        inputs.pop()
    return ir.node("Clip", inputs)


@rule("merge-clips", "Clip", "Relu")
def merge_clips(node: ir.Node, context: Context) -> Outcome:
    """Clip(Relu(x)), Relu(Clip(x)), Clip(Clip(x)) -> one Clip or Relu; Clip(x, 0) -> Relu(x).

    Declines for computed bounds, empty ranges, and integers.
    """
    value = node.inputs[0]
    if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    outer = clip_bounds(node)
    if outer is None:
        return None
    inner_node = owned_by(value, "Clip", "Relu", like=node)
    inner = clip_bounds(inner_node) if inner_node is not None else None
    if inner_node is None or inner is None:
        if node.op_type == "Clip" and outer[0] == 0 and outer[1] == math.inf:
            return replace_with(node, ir.node("Relu", [value]))
        return None
    low, high = max(outer[0], min(inner[0], outer[1])), min(outer[1], max(inner[1], outer[0]))
    data = inner_node.inputs[0]
    if inner[0] > inner[1] or outer[0] > outer[1] or not low <= high or data is None:
        return None
    if math.isinf(low) and math.isinf(high):
        return None
    return replace_with(node, _clip(data, low, high, value, context.opset))


@rule("minmax-to-clip", "Min", "Max")
def minmax_to_clip(node: ir.Node, context: Context) -> Outcome:
    """Min(Max(x, a), b) -> Clip(x, a, b); Max(x, 0) -> Relu(x).

    Declines unless a <= b are single constants.
    """
    operand = const_operand(node)
    if operand is None or operand.array.size != 1 or operand.array.ndim > 0:
        return None
    if operand.data.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    bound = float(operand.array.item())
    inner = owned_by(operand.data, "Max" if node.op_type == "Min" else "Min", "Relu", like=node)
    if inner is None or (inner.op_type == "Relu" and node.op_type == "Max"):
        if node.op_type == "Max" and bound == 0:
            return replace_with(node, ir.node("Relu", [operand.data]))
        return None
    if inner.op_type == "Relu":
        data, other = inner.inputs[0], 0.0
    else:
        nested = const_operand(inner)
        if nested is None or nested.array.size != 1 or nested.array.ndim > 0:
            return None
        data, other = nested.data, float(nested.array.item())
    low, high = (other, bound) if node.op_type == "Min" else (bound, other)
    if not low <= high or data is None:
        return None
    return replace_with(node, _clip(data, low, high, operand.data, context.opset))


def _plus(value: ir.Value | None, number: float, like: ir.Node) -> ir.Value | None:
    """x, if `value` is x + number."""
    add = made_by(value, "Add", like=like)
    operand = const_operand(add) if add is not None else None
    if operand is None or operand.array.size != 1 or operand.array.ndim > 1:
        return None
    return operand.data if np.isclose(float(operand.array.item()), number) else None


def _sixth_of(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """y, if `value` is y / 6 or y * (1/6)."""
    scaled = made_by(value, "Div", "Mul", like=node)
    operand = const_operand(scaled) if scaled is not None else None
    if scaled is None or operand is None or operand.array.size != 1 or operand.array.ndim > 1:
        return None
    factor = float(operand.array.item())
    good = (
        np.isclose(factor, 6) and operand.port == 1
        if scaled.op_type == "Div"
        else np.isclose(factor, 1 / 6, rtol=1e-4)
    )
    return operand.data if good else None


def _relu6_of_plus3(value: ir.Value | None, like: ir.Node) -> ir.Value | None:
    """x, if `value` is Clip(x + 3, 0, 6)."""
    clip = made_by(value, "Clip", like=like)
    return _plus(clip.inputs[0], 3, like) if clip and clip_bounds(clip) == (0, 6) else None


@rule("fuse-hardsigmoid", "Div", "Mul")
def fuse_hardsigmoid(node: ir.Node, _context: Context) -> Outcome:
    """Clip(x + b, 0, c) / c -> HardSigmoid(x, alpha 1/c, beta b/c); x + 3 and 6 usually.

    Without the addition (it may be in a bias by now) beta is 0. Declines when the inner
    values have other readers (nothing would be removed).
    """
    operand = const_operand(node)
    clip = owned_by(operand.data, "Clip", like=node) if operand is not None else None
    bounds = clip_bounds(clip) if clip is not None else None
    if operand is None or clip is None or bounds is None or operand.array.size != 1:
        return None
    factor = float(operand.array.item())
    divides = node.op_type == "Div"
    if (divides and operand.port == 0) or not factor or operand.array.ndim > 1:
        return None
    low, high = bounds
    if low != 0 or not np.isclose(high, factor if divides else 1 / factor, rtol=1e-6):
        return None
    data, beta = clip.inputs[0], 0.0
    add = owned_by(data, "Add", like=clip)
    shift = const_operand(add) if add is not None else None
    if shift is not None and shift.array.size == 1 and shift.array.ndim <= 1:
        data, beta = shift.data, float(shift.array.item()) / high
    return replace_with(node, ir.node("HardSigmoid", [data], {"alpha": 1 / high, "beta": beta}))


@rule("fuse-hardswish", "Mul", "Div")
def fuse_hardswish(node: ir.Node, context: Context) -> Outcome:
    """Fuse x * HardSigmoid(x) -> HardSwish(x); x * Clip(x+3, 0, 6) / 6 in any order alike.

    Declines below opset 14, which has no HardSwish.
    """
    data = _hardswish_input(node)
    if data is None:
        return None
    if context.opset < 14:
        return Refused(f"HardSwish needs opset 14, the model has {context.opset}")
    return replace_with(node, ir.node("HardSwish", [data]))


def _hardswish_input(node: ir.Node) -> ir.Value | None:
    if node.op_type == "Mul":
        for port in (0, 1):
            gate, data = node.inputs[port], node.inputs[1 - port]
            hard = owned_by(gate, "HardSigmoid", like=node)
            if hard is not None and hard.inputs[0] is data:
                alpha = float(attribute(hard, "alpha", 0.2))
                beta = float(attribute(hard, "beta", 0.5))
                if np.isclose(alpha, 1 / 6, rtol=1e-4) and np.isclose(beta, 0.5):
                    return data
            # (x / 6) * Clip(x + 3)
            x = _relu6_of_plus3(gate, node)
            if x is not None and _sixth_of(node, data) is x:
                return x
    product = _sixth_of(node, node.outputs[0])
    inner = owned_by(product, "Mul", like=node)
    if inner is not None:
        for port in (0, 1):
            x = _relu6_of_plus3(inner.inputs[port], node)
            if x is not None and inner.inputs[1 - port] is x:
                return x
    return None


@rule("fuse-sigmoid", "Div", "Reciprocal")
def fuse_sigmoid(node: ir.Node, _context: Context) -> Outcome:
    """1 / (1 + Exp(-x)) -> Sigmoid(x); x / (1 + Exp(-x)) -> x * Sigmoid(x) (SiLU)."""
    denominator = node.inputs[1] if node.op_type == "Div" else node.inputs[0]
    exponential = _plus(denominator, 1, node)
    exp = made_by(exponential, "Exp", like=node)
    negative = made_by(exp.inputs[0], "Neg", like=node) if exp is not None else None
    data = negative.inputs[0] if negative is not None else None
    if data is None or owned_by(denominator, "Add", like=node) is None:
        return None
    sigmoid = ir.node("Sigmoid", [data])
    if node.op_type == "Reciprocal" or near(node.inputs[0], 1):
        return replace_with(node, sigmoid)
    if node.inputs[0] is data:
        return replace_with(node, sigmoid, ir.node("Mul", [data, sigmoid.outputs[0]]))
    return None


@rule("fuse-gelu", "Mul", "Div")
def fuse_gelu(node: ir.Node, context: Context) -> Outcome:
    """0.5 * x * (1 + Erf(x / sqrt 2)), in any order -> Gelu(x).

    Declines below opset 20, which has no Gelu.
    """
    data = _gelu_input(node)
    if data is None:
        return None
    if context.opset < 20:
        return Refused(f"Gelu needs opset 20, the model has {context.opset}")
    return replace_with(node, ir.node("Gelu", [data]))


def ends_gelu(node: ir.Node) -> bool:
    """Tell whether a node makes `0.5 * x * (1 + Erf(..))`, or the same of Tanh."""
    factors, product = _factors(node, depth=0)
    return (
        len(factors) == 2
        and bool(np.isclose(product, 0.5, rtol=1e-3))
        and any(made_by(_plus(v, 1, node), "Erf", "Tanh", like=node) is not None for v in factors)
    )


def _gelu_input(node: ir.Node) -> ir.Value | None:
    """Return x if a node makes `0.5 * x * (1 + Erf(x / sqrt 2))`."""
    factors, product = _factors(node, depth=0)
    if not np.isclose(product, 0.5, rtol=1e-3) or len(factors) != 2:
        return None
    for gate, data in (factors, factors[::-1]):
        erf_value = _plus(gate, 1, node)
        erf = made_by(erf_value, "Erf", like=node)
        if erf is None:
            continue
        inner = made_by(erf.inputs[0], "Mul", "Div", like=node)
        if inner is None:
            continue
        arguments, scale = _factors(inner, depth=2)
        if len(arguments) == 1 and arguments[0] is data and np.isclose(scale, 2**-0.5, rtol=1e-3):
            return data
    return None


def _factors(node: ir.Node, *, depth: int) -> tuple[list[ir.Value], float]:
    """The non-constant factors of a product of up to three nodes, and the constant one."""
    values: list[ir.Value] = []
    product = 1.0
    for port, value in enumerate(node.inputs):
        number = scalar(value)
        divides = node.op_type == "Div" and port == 1
        if number is not None:
            product = product / float(number) if divides else product * float(number)
            continue
        inner = owned_by(value, "Mul", "Div", like=node) if depth < 2 else None
        if divides or value is None:
            return [], 0.0
        if inner is not None and any(scalar(v) is not None or depth == 0 for v in inner.inputs):
            more, factor = _factors(inner, depth=depth + 1)
            values += more
            product *= factor
        else:
            values.append(value)
    return values, product


@rule("prelu-to-leakyrelu", "PRelu")
def prelu_to_leakyrelu(node: ir.Node, _context: Context) -> Outcome:
    """PRelu(x, one constant slope) -> LeakyRelu(x). Declines when slopes differ."""
    slope = small_const(node.inputs[1])
    if slope is None or slope.size == 0 or not np.all(slope == slope.flat[0]):
        return None
    if slope.dtype.kind != "f":
        return None
    return replace_with(
        node, ir.node("LeakyRelu", [node.inputs[0]], {"alpha": float(slope.flat[0])})
    )


@rule("fuse-softplus", "Log")
def fuse_softplus(node: ir.Node, _context: Context) -> Outcome:
    """Log(1 + Exp(x)) -> Softplus(x)."""
    exponential = _plus(node.inputs[0], 1, node)
    exp = made_by(exponential, "Exp", like=node)
    if exp is None or owned_by(node.inputs[0], "Add", like=node) is None:
        return None
    return replace_with(node, ir.node("Softplus", [exp.inputs[0]]))


@rule("fuse-mish", "Mul")
def fuse_mish(node: ir.Node, context: Context) -> Outcome:
    """Fuse x * Tanh(Softplus(x)) -> Mish(x). Declines below opset 18, which has no Mish."""
    for value in node.inputs:
        tanh = owned_by(value, "Tanh", like=node)
        soft = owned_by(tanh.inputs[0], "Softplus", like=tanh) if tanh is not None else None
        if value is None or soft is None or other_input(node, value) is not soft.inputs[0]:
            continue
        if context.opset < 18:
            return Refused(f"Mish needs opset 18, the model has {context.opset}")
        new = ir.node("Mish", [soft.inputs[0]])
        return Replacement((new,), ((node.outputs[0], new.outputs[0]),))
    return None


RULES = (
    merge_clips,
    minmax_to_clip,
    fuse_hardswish,
    fuse_hardsigmoid,
    fuse_sigmoid,
    fuse_gelu,
    fuse_softplus,
    fuse_mish,
    prelu_to_leakyrelu,
)
