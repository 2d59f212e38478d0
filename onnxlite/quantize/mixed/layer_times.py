"""Latency of single layers in float and on integers, measured on this machine.

Conversions at the boundary are not counted, because they depend on the neighbouring layers.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import Range
from onnxlite.ops import ShapeOf
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import place
from onnxlite.quantize.core.targets import Target
from onnxlite.timing.layer_times import LayerTimes, one_layer

#: Range of all activations; latency does not depend on it.
_RANGE = Range(-4.0, 4.0)


def layer_times(
    times: LayerTimes, model: ir.Model, node: ir.Node, shape_of: ShapeOf, target: Target
) -> tuple[float | None, float | None]:
    """Measure a layer in float and on integers.

    Args:
        times: the cached timer.
        model: the model of the node; its opset versions are used.
        node: a layer with a constant weight.
        shape_of: concrete shapes of the values.
        target: the types of activations and weights.

    Returns:
        Seconds of one run in float and on integers; None if it cannot be measured.
    """
    in_float = times.time(model, node, shape_of, {})
    shapes = [shape_of(value) for value in node.inputs]
    if in_float is None or shape_of(node.outputs[0]) is None:
        return in_float, None
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    key = (
        f"{node.op_type} {attributes} {shapes} on {target.activation} {target.weight_type(node)} "
        f"{target.channel_axis(node)} {target.goes_to_float(node)}"
    )
    on_integers = times.time_of(
        key, lambda: _quantized_alone(model, node, shape_of, target), node.op_type
    )
    return in_float, on_integers


def _quantized_alone(model: ir.Model, node: ir.Node, shape_of: ShapeOf, target: Target) -> ir.Model:
    """Make a QDQ model of one layer, with random weights of the same shape."""
    alone = one_layer(model, node, shape_of, {})
    alone.graph[0].name = node.name
    infer_shapes(alone)
    placement = place(alone, target, include=(), exclude=())
    plan = QuantPlan(alone, placement, target)
    ranges = {value.name or "": _RANGE for value in placement.values}
    return quick_qdq(plan, activation_params(plan, ranges))
