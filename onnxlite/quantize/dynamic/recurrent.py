"""Recurrent layers on integers: ONNX Runtime's DynamicQuantizeLSTM.

    LSTM(x, W[d, 4h, i], R[d, 4h, h], ...)  becomes
    DynamicQuantizeLSTM(x, W8[d, i, 4h], R8[d, h, 4h], ..., a scale per gate and unit)

Input and hidden state are quantized anew in each step; gates are computed in float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_array, const_tensor
from onnxlite.quantize.core.qtypes import INT8, dequantize
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import quantize_weight
from onnxlite.quantize.dynamic.writer import MICROSOFT, Writer

#: Ports of LSTM: X, W, R, B, sequence_lens, initial_h, initial_c, P.
_WEIGHTS = (1, 2)
_PORTS = 8


def refuse_lstm(node: ir.Node, _target: Target) -> str | None:
    """Why an LSTM node cannot run on integers, or None."""
    for port in _WEIGHTS:
        tensor = const_tensor(node.inputs[port])
        if tensor is None:
            return "its weights are computed at run time"
        if tensor.dtype != ir.DataType.FLOAT:
            return f"its weight {tensor.name!r} is {tensor.dtype}, not float32"
    if attribute(node, "layout", 0):
        return "DynamicQuantizeLSTM has no batch-first layout"
    return None


def write_lstm(
    writer: Writer, node: ir.Node, target: Target
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Replace an LSTM node; returns both weights and what their integers stand for."""
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * (_PORTS - len(node.inputs))]
    pairs = []
    scales: list[ir.Value | None] = []
    for port in _WEIGHTS:
        value = node.inputs[port]
        weight = const_array(value)
        assert weight is not None
        assert value is not None
        name = value.name or "weight"
        # Directions have scales of their own, so each is quantized by itself.
        parts = [
            quantize_weight(
                np.ascontiguousarray(direction.T),
                INT8,
                channel_axis=1,
                reduction_axes=(0,),
                avoid_saturation=target.avoid_saturation,
            )
            for direction in weight
        ]
        integers = np.stack([part[0] for part in parts])
        scale = np.stack([part[1].scale for part in parts])
        inputs[port] = writer.constant(node, f"{name}_q", integers)
        scales.append(writer.constant(node, f"{name}_scale", scale))
        scales.append(writer.constant(node, f"{name}_zero", np.zeros(scale.shape, np.int8)))
        back = np.stack([dequantize(*part) for part in parts])
        pairs.append((weight.transpose(0, 2, 1), back))
    outputs = writer.node(
        node,
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        f"{node.name}_integer",
        attributes={name: attr.value for name, attr in node.attributes.items() if name != "layout"},
        domain=MICROSOFT,
        outputs=len(node.outputs),
    )
    for old, new in zip(node.outputs, outputs, strict=True):
        new.name = new.name if old.name else ""
    writer.replace(node, outputs)
    return pairs
