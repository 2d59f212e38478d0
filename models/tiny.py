"""Nets made for one property: whether integers pay. Weights are seeded and random."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 17, 8


def tiny_convolutions(*, seed: int = 0) -> onnx.ModelProto:
    """Four convolutions on 4 channels of 4x4: overheads are all there is to it.

    Input `x: float32[batch, 4, 4, 4]`, output `y` of the same shape.
    """
    return _convolutions(4, 4, 4, seed)


def wide_convolutions(*, seed: int = 0) -> onnx.ModelProto:
    """Four convolutions on 64 channels of 14x14: nearly all of its time is products.

    Input `x: float32[batch, 64, 14, 14]`, output `y` of the same shape.
    """
    return _convolutions(4, 64, 14, seed)


def tiny_perceptron(*, seed: int = 0) -> onnx.ModelProto:
    """Three layers of 16 features: `x: float32[batch, 16]`, `y: float32[batch, 4]`."""
    rng = np.random.default_rng(seed)
    nodes, tensors, name = [], [], "x"
    for index, width in enumerate((16, 16, 4)):
        tensors += [_normal(rng, f"w{index}", 16, width), _normal(rng, f"b{index}", width)]
        last = index == 2
        output = "y" if last else f"t{index}"
        nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [output]))
        if not last:
            name = f"r{index}"
            nodes.append(helper.make_node("Relu", [output], [name]))
    return _model(nodes, tensors, ["batch", 16], ["batch", 4])


def _convolutions(count: int, channels: int, side: int, seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    nodes, tensors, name = [], [], "x"
    for index in range(count):
        tensors.append(_normal(rng, f"w{index}", channels, channels, 3, 3))
        tensors.append(_normal(rng, f"b{index}", channels))
        inputs = [name, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"t{index}"], pads=[1, 1, 1, 1]))
        name = "y" if index == count - 1 else f"r{index}"
        nodes.append(helper.make_node("Relu", [f"t{index}"], [name]))
    shape: list[str | int] = ["batch", channels, side, side]
    return _model(nodes, tensors, shape, shape)


def _normal(rng: np.random.Generator, name: str, *shape: int) -> TensorProto:
    """He-scaled weights (He et al. 2015), or a small bias."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
    values: NDArray[np.float32] = rng.standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values * np.float32((2 / fan) ** 0.5), name)


def _model(
    nodes: list[onnx.NodeProto],
    tensors: list[TensorProto],
    shape: list[str | int],
    output_shape: list[str | int],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        tensors,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
