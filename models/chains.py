"""Chains of any number of convolutions, to measure how work grows with depth.

Every convolution has its own seeded weights; activations keep their size along the chain.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 17, 8


def plain_chain(layers: int, *, channels: int = 8, side: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Convolutions with a Relu behind each: one group of channels per layer.

    Input `x: float32[batch, channels, side, side]`, output `y` of the same shape.

    Args:
        layers: number of convolutions, at least 1.
        channels: of every convolution.
        side: height and width of every value.
        seed: of the weights.
    """
    chain = _Chain(channels, seed)
    value = "x"
    for _ in range(layers):
        value = chain.relu(chain.conv(value, gain=2.0))
    return chain.model(value, side)


def residual_chain(
    layers: int, *, channels: int = 8, side: int = 4, batchnorm: bool = False, seed: int = 0
) -> onnx.ModelProto:
    """Blocks of two convolutions beside a shortcut: one group per block, one for the stream.

    Input `x: float32[batch, channels, side, side]`, output `y` of the same shape.

    Args:
        layers: number of convolutions; two per block, and the others before the first block.
        channels: of every convolution.
        side: height and width of every value.
        batchnorm: a BatchNormalization stands behind every convolution.
        seed: of the weights.
    """
    chain = _Chain(channels, seed, batchnorm=batchnorm)
    blocks = (layers - 1) // 2
    value = "x"
    for _ in range(layers - 2 * blocks):
        value = chain.relu(chain.conv(value, gain=2.0))
    for _ in range(blocks):
        inner = chain.relu(chain.conv(value, gain=2.0))
        # Each block adds little, so that the stream does not grow with their number.
        value = chain.relu(chain.add(value, chain.conv(inner, gain=1.0 / blocks)))
    return chain.model(value, side)


class _Chain:
    """Nodes and weights of a chain as it grows."""

    def __init__(self, channels: int, seed: int, *, batchnorm: bool = False) -> None:
        self._channels = channels
        self._batchnorm = batchnorm
        self._convolutions = 0
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []

    def conv(self, value: str, *, gain: float) -> str:
        """Append a 3x3 convolution whose weights have the variance `gain / fan_in`."""
        name, size = f"conv{self._convolutions}", self._channels
        self._convolutions += 1
        weight = self._rng.standard_normal((size, size, 3, 3)) * (gain / (9 * size)) ** 0.5
        bias = self._rng.standard_normal(size) * 0.01
        for suffix, array in (("weight", weight), ("bias", bias)):
            tensor = numpy_helper.from_array(array.astype(np.float32), f"{name}.{suffix}")
            self._weights.append(tensor)
        inputs = [value, f"{name}.weight", f"{name}.bias"]
        self._append("Conv", inputs, name)
        self._nodes[-1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
        return self._normalized(f"{name}.out", name) if self._batchnorm else f"{name}.out"

    def _normalized(self, value: str, conv: str) -> str:
        """Append a BatchNormalization that is close to the identity."""
        name = conv.replace("conv", "bn")
        parameters = [f"{name}.{suffix}" for suffix in ("scale", "bias", "mean", "variance")]
        for parameter, middle in zip(parameters, (1, 0, 0, 1), strict=True):
            array = middle + 0.01 * self._rng.random(self._channels)
            self._weights.append(numpy_helper.from_array(array.astype(np.float32), parameter))
        return self._append("BatchNormalization", [value, *parameters], name)

    def relu(self, value: str) -> str:
        """Append a Relu."""
        return self._append("Relu", [value], f"relu{len(self._nodes)}")

    def add(self, a: str, b: str) -> str:
        """Append a sum."""
        return self._append("Add", [a, b], f"add{len(self._nodes)}")

    def _append(self, op_type: str, inputs: list[str], name: str) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [f"{name}.out"], name=name))
        return f"{name}.out"

    def model(self, value: str, side: int) -> onnx.ModelProto:
        """Finish the model with `value` as its output `y`."""
        self._nodes[-1].output[0] = "y"
        assert value == f"{self._nodes[-1].name}.out"
        shape: list[str | int] = ["batch", self._channels, side, side]
        graph = helper.make_graph(
            self._nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            self._weights,
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
