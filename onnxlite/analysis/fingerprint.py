"""Fingerprint of a model for timing: equal ones take equal times."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import onnx_ir as ir

from onnxlite.graph import const_array, const_tensor
from onnxlite.inputs import Feed
from onnxlite.machine import machine

#: Raised whenever decisions are made in another way.
_VERSION = 6
#: Smaller integer constants are read: sizes and axes decide what a node does.
_SMALL = 64


def fingerprint(model: ir.Model, feeds: Sequence[Feed], details: Sequence[str]) -> str:
    """Digest of a graph without names and weights, of shapes, and the machine.

    Args:
        model: normalised.
        feeds: what is timed; only shapes and types count.
        details: whatever else a decision depends on.
    """
    digest = sha256(f"{_VERSION} {machine()} {machine().cores}".encode())
    for detail in details:
        digest.update(f"|{detail}".encode())
    for feed in feeds:
        shapes = [(name, array.dtype.name, array.shape) for name, array in feed.items()]
        digest.update(repr(shapes).encode())
    numbers: dict[ir.Value, str] = {}
    for index, value in enumerate(model.graph.inputs):
        numbers[value] = f"input {index}"
    for node in model.graph:
        for output in node.outputs:
            numbers[output] = f"value {len(numbers)}"
        attributes = sorted(f"{name}={_attribute(attr)}" for name, attr in node.attributes.items())
        inputs = [numbers.get(v) or _constant(v) if v is not None else "" for v in node.inputs]
        digest.update(repr((node.domain, node.op_type, attributes, inputs)).encode())
    digest.update(repr([numbers.get(value) for value in model.graph.outputs]).encode())
    return digest.hexdigest()[:24]


def _attribute(attr: ir.Attr) -> object:
    if attr.is_ref() or attr.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return attr.value
    bodies = [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else attr.as_graphs()
    return [[node.op_type for node in body.all_nodes()] for body in bodies]


def _constant(value: ir.Value) -> str:
    tensor = const_tensor(value)
    if tensor is None:
        return "captured"
    text = f"{tensor.dtype} {tensor.shape}"
    if tensor.size == 1 or (tensor.dtype.is_integer() and tensor.size <= _SMALL):
        array = const_array(value)
        assert array is not None
        text += f" {array.tolist()}"
    return text
