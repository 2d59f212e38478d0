"""QOperator form: integer operators instead of Q and DQ around float ones.

    x8 -> DQ -> Conv(., DQ(w8), DQ(b32)) -> Q -> y8    becomes    x8 -> QLinearConv -> y8
    x8 -> DQ -> MaxPool -> Q -> y8                     becomes    x8 -> MaxPool -> y8

It is what ONNX Runtime does with the QDQ form when it loads it, with the same kernels, so the
results are the same. The file is smaller: no DQ nodes of weights, no scales of biases.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.builder import take_over
from onnxlite.errors import VerificationError
from onnxlite.fidelity import Reference
from onnxlite.graph import const_array, is_op, sole_consumer
from onnxlite.inputs import Feed
from onnxlite.model import clone
from onnxlite.ops import CONTRIB_DOMAIN, Quantized, spec_of
from onnxlite.opset import opset_version
from onnxlite.runtime import Session

#: Outputs of the two forms differ by less than this: kernels may be fused differently, and a
#: value that lies between two integers then falls to the other side.
_SAME_DB = 40.0


def to_qoperator(model: ir.Model, feed: Feed) -> int:
    """Rewrite in place: the QDQ form of `model` becomes integer operators.

    Args:
        model: has Q and DQ nodes. What no integer operator can do keeps them.
        feed: on which both forms are compared.

    Returns:
        Number of integer operators.

    Raises:
        VerificationError: ONNX Runtime computes something else than with the QDQ form.
        ExecutionError: ONNX Runtime refuses the result.
    """
    before = clone(model)
    opset = opset_version(model)
    count = sum(_rewrite(model.graph, node, opset) for node in list(model.graph))
    model.opset_imports.setdefault(CONTRIB_DOMAIN, 1)
    _drop_unused(model.graph)
    _compare(before, model, feed)
    return count


def _rewrite(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    rule = spec_of(node).quant
    if rule is None:
        return False
    if rule.kind == "layout":
        if rule.computes is not None and rule.computes(node):
            return False
        return _move(graph, node, rule.ports(node))
    inputs = _quantized_inputs(node)
    if inputs is None:
        return False
    quantize = _quantizer(node.outputs[0])
    form = rule.float_form if quantize is None else rule.integer_form
    if form is None:
        return False
    output = Quantized(None, None, None) if quantize is None else _output(quantize)
    attributes = [
        attr
        for name, attr in node.attributes.items()
        if form.attributes is None or name in form.attributes
    ]
    if form.records_opset:
        attributes.append(ir.AttrInt64("opset", opset))
    new = ir.Node(
        form.domain, form.op_type, form.arrange(inputs, output), attributes, name=node.name
    )
    graph.insert_before(node, new)
    old = node.outputs[0] if quantize is None else quantize.outputs[0]
    take_over(new.outputs[0], old)
    if quantize is not None:
        graph.remove(quantize, safe=True)
    graph.remove(node, safe=True)
    return True


def _move(graph: ir.Graph, node: ir.Node, ports: tuple[int, ...]) -> bool:
    """Rewrite in place: an operator that only moves values moves integers."""
    sources = [_dequantizer(node.inputs[port]) for port in ports]
    sinks = [_quantizer(output) for output in node.outputs]
    if None in sources or None in sinks:
        return False
    pairs = [dq for dq in sources if dq is not None], [q for q in sinks if q is not None]
    same = [_parameters(n) for nodes in pairs for n in nodes]
    if any(parameters != same[0] for parameters in same):
        return False
    for port, source in zip(ports, pairs[0], strict=True):
        node.replace_input_with(port, source.inputs[0])
    for output, sink in zip(node.outputs, pairs[1], strict=True):
        old = sink.outputs[0]
        output.name, output.type = None, old.type
        take_over(output, old)
        graph.remove(sink, safe=True)
    return True


def _quantized_inputs(node: ir.Node) -> list[Quantized] | None:
    """List all inputs with scale and zero point; None unless all are dequantized."""
    found = []
    for value in node.inputs:
        if value is None:
            continue
        source = _dequantizer(value)
        if source is None:
            return None
        found.append(Quantized(source.inputs[0], source.inputs[1], source.inputs[2]))
    return found


def _output(quantize: ir.Node) -> Quantized:
    return Quantized(None, quantize.inputs[1], quantize.inputs[2])


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if is_op(producer, "DequantizeLinear") else None


def _quantizer(value: ir.Value) -> ir.Node | None:
    reader = sole_consumer(value)
    return reader if is_op(reader, "QuantizeLinear") else None


def _parameters(node: ir.Node) -> tuple[float, int, str]:
    scale, zero = const_array(node.inputs[1]), const_array(node.inputs[2])
    assert scale is not None
    assert zero is not None
    return float(scale), int(zero), zero.dtype.name


def _drop_unused(graph: ir.Graph) -> None:
    """Remove DQ nodes and constants without readers."""
    for node in reversed(graph):
        output = node.outputs[0]
        if is_op(node, "DequantizeLinear") and not (output.uses() or output.is_graph_output()):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def _compare(before: ir.Model, after: ir.Model, feed: Feed) -> None:
    reference = Reference(Session(before, qdq="int8").run, [feed])
    for name, error in reference.errors(after).outputs.items():
        if error.sqnr_db < _SAME_DB:
            raise VerificationError(
                f"output {name!r} of the QOperator form differs from that of the QDQ form: use "
                'form="qdq" and report this'
            )
