"""Where a model keeps its trained weights, read off the operator table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import const_tensor, iter_nodes
from onnxlite.ops.table import spec_of


@dataclass(frozen=True)
class Parameter:
    """A constant that a node uses as weight: `node.inputs[port] is value`."""

    node: ir.Node
    port: int
    value: ir.Value
    tensor: ir.TensorProtocol


def iter_parameters(model: ir.Model) -> Iterator[Parameter]:
    """Every use of a constant on a weight port, subgraphs included.

    A tensor that several nodes share comes once for each of them.
    """
    for node in iter_nodes(model):
        for port in spec_of(node).weights:
            if port >= len(node.inputs):
                continue
            value = node.inputs[port]
            tensor = const_tensor(value)
            if value is not None and tensor is not None:
                yield Parameter(node, port, value, tensor)


def trained_ports(node: ir.Node) -> tuple[int, ...]:
    """Where a node may have a weight, a bias, or a normalisation's scale and shift."""
    spec = spec_of(node)
    ports = [*spec.weights, *spec.shifts]
    if spec.quant is not None and spec.quant.bias is not None:
        ports.append(spec.quant.bias)
    if spec.gain is not None:
        ports += [spec.gain, spec.gain + 1]
    return tuple(ports)
