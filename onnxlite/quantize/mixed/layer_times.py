"""Time of a layer in float and on integers, each measured alone on this machine.

Conversions at its boundary do not count: whether a layer has them depends on its neighbours.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import const_array
from onnxlite.ops import ShapeOf, spec_of
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import layer_weight
from onnxlite.timing.layer_times import LayerTimes

#: Data of the standard normal distribution fits into this range.
_BOUND = 4.0


def layer_times(
    times: LayerTimes, model: ir.Model, node: ir.Node, shape_of: ShapeOf, target: Target
) -> tuple[float | None, float | None]:
    """Seconds of one run in float and on integers; None where it cannot be measured.

    Args:
        times: measures and keeps them.
        model: whose versions of the operator sets hold.
        node: a layer with a constant weight.
        shape_of: concrete shapes, for the batch to be measured.
        target: the types of activations and weights.
    """
    exact = times.time(model, node, shape_of, {})
    shapes = [shape_of(value) for value in node.inputs]
    output = shape_of(node.outputs[0])
    if exact is None or output is None:
        return exact, None
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    key = (
        f"{node.op_type} {attributes} {shapes} on {target.activation} {target.weight_type(node)} "
        f"{target.channel_axis(node)} {target.goes_to_float(node)}"
    )
    rounded = times.time_of(key, lambda: _alone(model, node, shape_of, target), node.op_type)
    return exact, rounded


def _alone(model: ir.Model, node: ir.Node, shape_of: ShapeOf, target: Target) -> ir.Model:
    """A model of the layer between Q and DQ nodes; its weight keeps its shape."""
    rule = spec_of(node).quant
    assert rule is not None
    assert rule.weight is not None
    weight = const_array(node.inputs[rule.weight])
    assert weight is not None
    integers, params = layer_weight(node, weight, target)
    build = _Build()
    data = ir.Value(
        name="x",
        shape=ir.Shape(shape_of(node.inputs[0]) or ()),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    scale = np.float32(2 * _BOUND / (target.activation.qmax - target.activation.qmin))
    middle = (target.activation.qmax + target.activation.qmin + 1) // 2
    zero = np.array(middle, target.activation.dtype)
    axis = {} if params.axis is None else {"axis": params.axis}
    rounded = build.dequantize(integers, params.scale, params.zero_point, axis)
    inputs = [build.pair(data, scale, zero), rounded]
    bias_value = node.inputs[rule.bias] if rule.bias is not None and len(node.inputs) > 2 else None
    if bias_value is not None:
        bias = const_array(bias_value)
        assert bias is not None
        step = (scale * params.scale).astype(np.float32)
        whole = np.rint(bias.reshape(-1) / step).clip(-(2**30), 2**30).astype(np.int32)
        axis = {"axis": 0} if step.ndim else {}
        inputs.append(build.dequantize(whole, step, np.zeros(step.shape, np.int32), axis))
    copy = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=1)
    build.nodes.append(copy)
    result = copy.outputs[0]
    if not target.goes_to_float(node):
        result = build.pair(result, np.float32(scale * 4), zero)
    result.name, result.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [data],
        [result],
        nodes=build.nodes,
        initializers=build.constants,
        opset_imports=dict(model.opset_imports),
        name="layer",
    )
    return ir.Model(graph, ir_version=model.ir_version)


class _Build:
    """Nodes and constants of a small model."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def pair(self, value: ir.Value, scale: np.float32, zero: np.ndarray) -> ir.Value:
        """The value through Q and DQ."""
        constants = [self._constant(np.array(scale)), self._constant(zero)]
        q = ir.node("QuantizeLinear", [value, *constants])
        dq = ir.node("DequantizeLinear", [q.outputs[0], *constants])
        self.nodes += [q, dq]
        return dq.outputs[0]

    def dequantize(
        self, integers: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: dict[str, int]
    ) -> ir.Value:
        """A constant through DQ."""
        constants = [self._constant(array) for array in (integers, scale, zero)]
        dq = ir.node("DequantizeLinear", constants, axis)
        self.nodes.append(dq)
        return dq.outputs[0]

    def _constant(self, array: np.ndarray) -> ir.Value:
        name = f"c{len(self.constants)}"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.constants.append(value)
        return value
