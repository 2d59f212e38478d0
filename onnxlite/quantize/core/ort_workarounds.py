"""Workarounds for ONNX Runtime: keep layers float that were left float on purpose.

ONNX Runtime (seen in 1.32) quantizes a Conv, ConvTranspose or Gemm by itself where it finds one
between a DequantizeLinear and a QuantizeLinear: its float weights get one int8 scale in all
(the graph transformer `WeightBiasQuantization`), which costs a depthwise convolution, and not
only that, most of its accuracy. The transformer asks for one scale at the data's
DequantizeLinear. So the layer gets a DequantizeLinear of its own that repeats the scale per
channel: the numbers are the same, and the layer is left alone.

    x8 -> DQ(s) -> Conv(w) -> Q     becomes     x8 -> DQ([s, s, s]) -> Conv(w) -> Q
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, Place
from onnxlite.graph import (
    const_array,
    const_tensor,
    is_op,
    sole_consumer,
)
from onnxlite.ops import spec_of


def guard_float_layers(model: ir.Model) -> int:
    """Rewrite in place: give float layers between integers a DequantizeLinear of their own.

    Args:
        model: in QDQ form, at opset 13 or later.

    Returns:
        Number of layers that got one.
    """
    exposed = {node: found for node in model.graph if (found := _exposed(node)) is not None}
    if not exposed:
        return 0
    builder = GraphBuilder(model)
    made: dict[tuple[ir.Node, int, int], ir.Value] = {}
    constants: dict[tuple[ir.Value, int], ir.Value] = {}
    for node, (axis, size) in exposed.items():
        data = node.inputs[0]
        assert data is not None
        old = data.producer()
        assert old is not None
        if (old, axis, size) not in made:
            at = builder.after(old)
            repeated = [_repeated(at, v, size, constants) for v in old.inputs[1:]]
            inputs = [old.inputs[0], *repeated]
            new = at.op("DequantizeLinear", inputs, {"axis": axis}, name=f"{data.name}_channels")
            new.type, new.shape = data.type, data.shape
            made[old, axis, size] = new
        node.replace_input_with(0, made[old, axis, size])
    _remove_unused(model.graph, {old for old, _, _ in made})
    return len(exposed)


def _exposed(node: ir.Node) -> tuple[int, int] | None:
    """Axis and size of the data's channels, if ONNX Runtime would quantize this layer."""
    channels_of = spec_of(node).data_channels
    if channels_of is None or len(node.inputs) < 2 or node.inputs[0] is None:
        return None
    source, weight = node.inputs[0].producer(), const_tensor(node.inputs[1])
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return None
    if source is None or not is_op(source, "DequantizeLinear"):
        return None
    scale = const_tensor(source.inputs[1])
    if scale is None or scale.size != 1 or not _leads_to_integers(node):
        return None
    return channels_of(node)


def _leads_to_integers(node: ir.Node) -> bool:
    """Tell whether a QuantizeLinear follows, with nothing beside it.

    Whatever lies in between counts as an activation: other transformers may fold it away.
    """
    while len(node.outputs) == 1:
        consumer = sole_consumer(node.outputs[0])
        if consumer is None:
            return False
        if is_op(consumer, "QuantizeLinear"):
            return True
        node = consumer
    return False


def _repeated(
    at: Place,
    value: ir.Value | None,
    size: int,
    made: dict[tuple[ir.Value, int], ir.Value],
) -> ir.Value | None:
    if value is None:
        return None
    if (value, size) not in made:
        array = const_array(value)
        assert array is not None
        full: NDArray[Any] = np.full(size, array.reshape(()), array.dtype)
        made[value, size] = at.initializer(f"{value.name}_{size}", full)
    return made[value, size]


def _remove_unused(graph: ir.Graph, nodes: set[ir.Node]) -> None:
    """Remove those DequantizeLinear nodes that nothing reads any more, and their constants."""
    for node in nodes:
        output = node.outputs[0]
        if output.uses() or output.is_graph_output():
            continue
        constants = [value for value in node.inputs[1:] if value is not None]
        graph.remove(node, safe=True)
        for value in constants:
            if not value.uses() and not value.is_graph_output() and value.name:
                graph.initializers.pop(value.name, None)
