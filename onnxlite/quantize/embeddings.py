"""Tables of vectors that are looked up by index, with 8 bits and a scale per row.

    Gather(table, ids)  becomes  Cast(Gather(int8 table, ids)) * Gather(scales, ids)

Standard operators; only the rows that are looked up are ever converted. It is a matter of
size: the table of a sentence encoder is two thirds of its file.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_array, const_tensor, is_op
from onnxlite.quantize.qtypes import INT8, dequantize, params_for_weight, quantize
from onnxlite.quantize.writer import Writer

#: A smaller table saves less than the nodes and their names take.
_LEAST_BYTES = 1 << 16


def is_embedding(node: ir.Node) -> bool:
    """Whether a node looks rows up in a constant float32 table that is worth it."""
    if not is_op(node, "Gather") or attribute(node, "axis", 0) != 0:
        return False
    table = const_tensor(node.inputs[0])
    return (
        table is not None
        and table.dtype == ir.DataType.FLOAT
        and len(table.shape) >= 2
        and table.nbytes >= _LEAST_BYTES
        and const_tensor(node.inputs[1]) is None
    )


def write_embedding(writer: Writer, node: ir.Node) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Replace a look-up; returns the table and what its integers stand for."""
    value, indices = node.inputs
    table = const_array(value)
    assert table is not None
    assert value is not None
    base = node.name or node.op_type
    params = params_for_weight(INT8, table, 0)
    integers = quantize(table, params)
    scale = params.scale.reshape(-1, *[1] * (table.ndim - 1))
    stored = writer.constant(node, f"{value.name}_q", integers)
    scales = writer.constant(node, f"{value.name}_scale", scale)
    (rows,) = writer.node(node, "Gather", [stored, indices], f"{base}_rows")
    (real,) = writer.node(node, "Cast", [rows], f"{base}_real", attributes={"to": 1})
    (scale_of_rows,) = writer.node(node, "Gather", [scales, indices], f"{base}_scale")
    (result,) = writer.node(node, "Mul", [real, scale_of_rows], f"{base}_scaled")
    writer.replace(node, [result])
    return [(table, dequantize(integers, params))]
