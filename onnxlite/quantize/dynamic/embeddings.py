"""Embedding tables in 8 bits with one scale per row.

    Gather(table, ids)  becomes  Cast(Gather(int8 table, ids)) * Gather(scales, ids)

It uses standard operators and converts only the rows that are read. The purpose is size: the table
of a sentence encoder takes two thirds of its file.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.analysis.lineage import record_layers
from onnxlite.builder import GraphBuilder, replace_node
from onnxlite.graph import const_array, const_tensor, iter_nodes
from onnxlite.ops import row_use
from onnxlite.quantize.core.options import QuantizedTable, QuantizeStatic
from onnxlite.quantize.core.qtypes import INT8, dequantize, params_for_weight, quantize
from onnxlite.quantize.core.selection import by_name
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import weight_sqnr_db

#: Smaller tables save less than the added nodes take.
_MIN_BYTES = 1 << 16


def embeddings_of(
    model: ir.Model, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[ir.Node]:
    """Find the embeddings to quantize, including those in subgraphs.

    Args:
        model: the float model.
        include: patterns (`fnmatch`) of node names to quantize; empty means all.
        exclude: patterns of node names that stay float.
    """
    return [
        node
        for node in iter_nodes(model)
        if is_embedding(node) and not by_name(node, include, exclude)
    ]


def is_embedding(node: ir.Node) -> bool:
    """Return whether a node reads rows of a large constant float32 table."""
    use = row_use(node, 0)
    if use is None or use.kind != "lookup":
        return False
    table = const_tensor(node.inputs[0])
    return (
        table is not None
        and table.dtype == ir.DataType.FLOAT
        and len(table.shape) >= 2
        and table.nbytes >= _MIN_BYTES
        and const_tensor(node.inputs[1]) is None
    )


def write_embedding(builder: GraphBuilder, node: ir.Node) -> QuantizedTable:
    """Rewrite in place: one embedding to 8 bits. Return its row of the report."""
    value, indices = node.inputs
    table = const_array(value)
    assert table is not None
    assert value is not None
    at, base = builder.before(node), node.name or node.op_type
    params = params_for_weight(INT8, table, 0)
    integers = quantize(table, params)
    scale = params.scale.reshape(-1, *[1] * (table.ndim - 1))
    stored = at.constant(f"{value.name}_q", integers)
    scales = at.constant(f"{value.name}_scale", scale)
    rows = at.op("Gather", [stored, indices], name=f"{base}_rows")
    made = rows.producer()
    assert made is not None
    record_layers(builder.model, [(base, made.name or "")])
    real = at.op("Cast", [rows], {"to": int(ir.DataType.FLOAT)}, name=f"{base}_real")
    row_scales = at.op("Gather", [scales, indices], name=f"{base}_scale")
    replace_node(node, [at.op("Mul", [real, row_scales], name=f"{base}_scaled")])
    pair = (table, dequantize(integers, params))
    return QuantizedTable(
        name=base,
        op_type=node.op_type,
        weights=table.size,
        weight_sqnr_db=weight_sqnr_db([pair]),
    )


def write_embeddings(
    model: ir.Model, target: Target, options: QuantizeStatic
) -> list[QuantizedTable]:
    """Rewrite in place: all embeddings, if options and target allow it."""
    if not options.embeddings or target.ort_cpu is None:
        return []
    builder = GraphBuilder(model)
    found = embeddings_of(model, include=options.include, exclude=options.exclude)
    return [write_embedding(builder, node) for node in found]
