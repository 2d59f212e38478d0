"""Strip a quantized model of what every reader infers: a tenth of a small model's file.

- The types and shapes of values between the nodes, where shape inference finds them again.
- Names of Q and DQ nodes, which no report refers to.
- Zero points of a convolution's weight and bias, one for each channel and all of them 0.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.graph import const_array, is_op
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.quantize.core.targets import Target


def strip_metadata(model: ir.Model, target: Target) -> None:
    """Rewrite in place: remove what every reader of the model infers again.

    Args:
        model: in QDQ or in QOperator form. Its inputs, outputs and all names that the float
            model had stay.
        target: says whether its runtime takes zero points that are left out.
    """
    if target.implied_zeros:
        _imply_zeros(model.graph)
    _drop_names(model.graph)
    _drop_known_types(model)


def _imply_zeros(graph: ir.Graph) -> None:
    """Remove zero points of convolutions' constants that are 0, the default of the operator.

    ONNX Runtime (1.22 and 1.32) still fuses QLinearConv then, but no QGemm.
    """
    for node in graph:
        rule = spec_of(node).quant
        if rule is None or rule.kind != "compute" or rule.float_output:
            continue
        for port in (rule.weight, rule.bias):
            value = node.inputs[port] if port is not None and port < len(node.inputs) else None
            stored = None if value is None else value.producer()
            if stored is None or not is_op(stored, "DequantizeLinear") or len(stored.inputs) < 3:
                continue
            zero = const_array(stored.inputs[2])
            # The type of integers without a zero point is that of the integers themselves.
            if zero is not None and not zero.any() and const_array(stored.inputs[0]) is not None:
                stored.resize_inputs(2)
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]


def _drop_names(graph: ir.Graph) -> None:
    for node in graph:
        if is_op(node, "QuantizeLinear", "DequantizeLinear"):
            node.name = None


def _drop_known_types(model: ir.Model) -> None:
    """Remove types and shapes of inner values that inference finds again."""
    known = {
        value: (value.type, value.shape)
        for node in model.graph
        for value in node.outputs
        if value.type is not None and not value.is_graph_output()
    }
    for value in known:
        value.type = value.shape = None
    found = _inferred(model)
    for value, (kind, shape) in known.items():
        producer = value.producer()
        assert producer is not None
        if found.get(value.name) != (kind, shape) and not spec_of(producer).quantized:
            value.type, value.shape = kind, shape


def _inferred(model: ir.Model) -> dict[str | None, tuple[ir.TypeProtocol | None, ir.Shape | None]]:
    copy = clone(model)
    infer_shapes(copy, symbolic=False)
    return {v.name: (v.type, v.shape) for node in copy.graph for v in node.outputs}
