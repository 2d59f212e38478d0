"""Operators that draw random values, and the same with tied noise (`ops/noise.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxlite.graph import attribute, const_array
from onnxlite.ops.noise import NoisePlace, gumbel, normal, uniform
from onnxlite.ops.pointwise import first_input
from onnxlite.ops.spec import OpSpec, RandomRule

Tie = Callable[[ir.Node, NoisePlace], Sequence[ir.Value]]


def _normal_values(node: ir.Node, at: NoisePlace, shape: ir.Value) -> ir.Value:
    scale, mean = attribute(node, "scale", 1.0), attribute(node, "mean", 0.0)
    return _affine(at, at.noise(normal, shape), scale, mean)


def _uniform_values(node: ir.Node, at: NoisePlace, shape: ir.Value) -> ir.Value:
    low, high = attribute(node, "low", 0.0), attribute(node, "high", 1.0)
    return _affine(at, at.noise(uniform, shape), high - low, low)


def _affine(at: NoisePlace, noise: ir.Value, scale: float, shift: float) -> ir.Value:
    scaled = at.op("Mul", noise, at.constant(float(scale)))
    return at.op("Add", scaled, at.constant(float(shift)))


Values = Callable[[ir.Node, NoisePlace, ir.Value], ir.Value]


def _of_shape(values: Values) -> Tie:
    """Noise of the shape in an attribute."""

    def tie(node: ir.Node, at: NoisePlace) -> Sequence[ir.Value]:
        shape = at.constant(attribute(node, "shape", []))
        return [at.cast_result(values(node, at, shape))]

    return tie


def _like(values: Values) -> Tie:
    """Noise of the input's shape."""

    def tie(node: ir.Node, at: NoisePlace) -> Sequence[ir.Value]:
        noise = values(node, at, at.op("Shape", node.inputs[0]))
        return [at.cast_result(noise, like=node.inputs[0])]

    return tie


def _bernoulli(node: ir.Node, at: NoisePlace) -> Sequence[ir.Value]:
    """Compare uniform noise with the probabilities."""
    (p,) = node.inputs
    noise = at.noise(uniform, at.op("Shape", p))
    drawn = at.op("Less", noise, at.op("Cast", p, attributes={"to": int(ir.DataType.FLOAT)}))
    return [at.cast_result(drawn, like=p)]


def _multinomial(node: ir.Node, at: NoisePlace) -> Sequence[ir.Value]:
    """Take argmax(log p + Gumbel noise) over `[batch, samples, classes]`."""
    (scores,) = node.inputs
    assert scores is not None
    # [batch, classes] and a 1, taken as [batch, 1, classes].
    sizes = at.op("Concat", at.op("Shape", scores), at.constant([1]), attributes={"axis": 0})
    single = at.op("Gather", sizes, at.constant([0, 2, 1]))
    shape = at.op("Mul", single, at.constant([1, attribute(node, "sample_size", 1), 1]))
    exact = at.cast(at.op("Reshape", scores, single), ir.DataType.FLOAT)
    noisy = at.op("Add", exact, at.noise(gumbel, shape))
    drawn = at.op("ArgMax", noisy, attributes={"axis": 2, "keepdims": 0})
    return [at.cast(drawn, attribute(node, "dtype", ir.DataType.INT32))]


def _trains(node: ir.Node) -> bool:
    """Return True for a Dropout whose input `training_mode` is true or computed."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    known = const_array(mode)
    return mode is not None and (known is None or bool(known.any()))


def _dropout(node: ir.Node, at: NoisePlace) -> Sequence[ir.Value]:
    """Compute `where(kept, x / (1 - ratio), 0)`; x and a full mask where it does not train."""
    x, ratio, training = node.inputs[:3]
    assert x is not None
    rate = at.constant(0.5) if ratio is None else at.cast(ratio, ir.DataType.FLOAT)
    rate = at.op("Where", training, rate, at.constant(0.0))
    below = at.op("Less", at.noise(uniform, at.op("Shape", x)), rate)
    gain = at.op("Sub", at.constant(1.0), rate)
    scaled = at.op("Div", at.cast(x, ir.DataType.FLOAT), gain)
    dropped = at.op("Where", below, at.constant(0.0), scaled)
    return [at.cast_result(dropped, like=x), at.op("Not", below)][: len(node.outputs)]


ROWS = (
    OpSpec(op_type="RandomNormal", random=RandomRule(_of_shape(_normal_values))),
    OpSpec(op_type="RandomUniform", random=RandomRule(_of_shape(_uniform_values))),
    OpSpec(op_type="RandomNormalLike", random=RandomRule(_like(_normal_values))),
    OpSpec(op_type="RandomUniformLike", random=RandomRule(_like(_uniform_values))),
    OpSpec(op_type="Bernoulli", random=RandomRule(_bernoulli)),
    OpSpec(op_type="Multinomial", random=RandomRule(_multinomial)),
    OpSpec(op_type="Dropout", random=RandomRule(_dropout, draws=_trains), channels=first_input),
)
