"""Weights that ordinary nodes decode from packed whole numbers.

stored: uint8[1, n] -> BitShift, Div, Mod, Reshape, Cast, ... -> codes: float32
    -> [Sub zero] -> Mul scale -> [Reshape] -> [Cast] -> weight

stored: uint8[1, n] -> ... -> Cast -> codes: int8 -> DequantizeLinear scale -> weight
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import const_tensor, is_op
from onnxlite.ops.table import spec_of

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class CodedWeight:
    """A weight `(codes - zero) * scale`.

    Attributes:
        codes: the whole numbers, as float32 or, in front of DequantizeLinear, int8.
        scale: the constant that they are multiplied by, float32 or float16.
        stored: the integer constants that the codes are computed from, each read once.
    """

    codes: ir.Value
    scale: ir.Value
    stored: tuple[ir.Value, ...]


def coded_weight(value: ir.Value) -> CodedWeight | None:
    """Return how a weight is decoded; None if it is not, or shares a part with another weight."""
    product = _behind_moves(value).producer()
    if product is not None and is_op(product, "DequantizeLinear"):
        return _integers(product)
    if product is None or not is_op(product, "Mul"):
        return None
    for left, right in (product.inputs, reversed(product.inputs)):
        if left is None or right is None:
            return None
        scale = _behind_moves(right)
        tensor = _constant(scale)
        if tensor is None or tensor.dtype not in _FLOATS or len(scale.uses()) > 1:
            continue
        shifted = left.producer()
        codes = shifted.inputs[0] if shifted is not None and is_op(shifted, "Sub") else left
        if codes is None:
            continue
        stored = tuple(_data_behind(codes))
        if stored and all(source is not None for source in stored):
            return CodedWeight(codes, scale, tuple(v for v in stored if v is not None))
    return None


def _integers(node: ir.Node) -> CodedWeight | None:
    """The weight that a DequantizeLinear node makes of decoded integers."""
    codes, scale = node.inputs[:2]
    if codes is None or scale is None or codes.producer() is None or len(codes.uses()) > 1:
        return None
    tensor = _constant(scale)
    stored = [value for value in _data_behind(codes) if value is not None]
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(stored) != 1:
        return None
    return CodedWeight(codes, scale, tuple(stored))


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer."""
    return const_tensor(value) if value.is_initializer() else None


def _behind_moves(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and spec_of(producer).moves_only and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _data_behind(value: ir.Value) -> Iterator[ir.Value | None]:
    """The integers that data comes from: the first input of each node, both of a sum."""
    producer = value.producer()
    if producer is None:
        tensor = _constant(value)
        whole = tensor is not None and tensor.dtype.is_integer() and len(value.uses()) == 1
        yield value if whole else None
        return
    for source in producer.inputs if is_op(producer, "Add") else producer.inputs[:1]:
        if source is None:
            yield None
        else:
            yield from _data_behind(source)
