"""Tables in 8 bits with one scale per row: embeddings, positions.

    Gather(table, ids)  becomes  Cast(Gather(int8 table, ids)) * Gather(scales, ids)
    Slice(table, ...)   becomes  Cast(Slice(int8 table, ...)) * Slice(scales, ...)

It uses standard operators and converts only the rows that are read. The purpose is size: the table
of a sentence encoder takes two thirds of its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import record_layers
from onnxlite.builder import GraphBuilder, replace_node
from onnxlite.graph import const_array, const_tensor, iter_nodes
from onnxlite.ops import spec_of
from onnxlite.quantize.core.integer_copies import IntegerCopies, IntegerCopy
from onnxlite.quantize.core.options import QuantizedTable, QuantizeStatic
from onnxlite.quantize.core.qtypes import INT8, params_for_weight, quantize
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
    axes_of = spec_of(node).table_axes
    axes = None if axes_of is None else axes_of(node)
    table = const_tensor(node.inputs[0]) if axes is not None else None
    return (
        table is not None
        and axes is not None
        and not {-1, len(table.shape) - 1}.intersection(axes)
        and table.dtype == ir.DataType.FLOAT
        and len(table.shape) >= 2
        and table.nbytes >= _MIN_BYTES
        and any(v is not None and const_tensor(v) is None for v in node.inputs[1:])
    )


def write_embedding(builder: GraphBuilder, node: ir.Node, copies: IntegerCopies) -> QuantizedTable:
    """Rewrite in place: one table to 8 bits. Return its row of the report.

    Args:
        builder: of the model.
        node: reads rows of the table.
        copies: gets the integers.
    """
    value, *rest = node.inputs
    table = const_array(value)
    assert table is not None
    assert value is not None
    at, base = builder.before(node), node.name or node.op_type
    attributes = {name: attr.value for name, attr in node.attributes.items() if attr.value}
    integers, scale = _rounded_rows(table, by_entry=bool(attributes) or len(rest) > 1)
    # In the graph of the table: nodes of several bodies may read it.
    graph = value.graph if isinstance(value.graph, ir.Graph) else at.graph
    stored = builder.constant(graph, f"{value.name}_q", integers)
    scales = builder.constant(graph, f"{value.name}_scale", scale)
    copies.add(value, IntegerCopy(stored, scale))
    rows = at.op(node.op_type, [stored, *rest], attributes, name=f"{base}_rows")
    made = rows.producer()
    assert made is not None
    record_layers(builder.model, [(base, made.name or "")])
    real = at.op("Cast", [rows], {"to": int(ir.DataType.FLOAT)}, name=f"{base}_real")
    row_scales = at.op(node.op_type, [scales, *rest], attributes, name=f"{base}_scale")
    replace_node(node, [at.op("Mul", [real, row_scales], name=f"{base}_scaled")])
    pair = (table, integers * scale)
    return QuantizedTable(
        name=base,
        op_type=node.op_type,
        weights=table.size,
        weight_sqnr_db=weight_sqnr_db([pair]),
    )


def _rounded_rows(table: NDArray[Any], *, by_entry: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Integers of a table, and scales that broadcast with them.

    Args:
        table: float32.
        by_entry: one scale for each vector along the last axis, else one for each entry of the
            first axis.
    """
    rows = table.reshape(-1, table.shape[-1]) if by_entry else table
    params = params_for_weight(INT8, rows, 0)
    shape = (*table.shape[:-1], 1) if by_entry else (-1, *[1] * (table.ndim - 1))
    return quantize(rows, params).reshape(table.shape), params.scale.reshape(shape)


def write_embeddings(
    model: ir.Model, target: Target, options: QuantizeStatic
) -> list[QuantizedTable]:
    """Rewrite in place: all embeddings, if options and target allow it."""
    if not options.embeddings or target.ort_cpu is None:
        return []
    builder = GraphBuilder(model)
    found = embeddings_of(model, include=options.include, exclude=options.exclude)
    copies = IntegerCopies()
    rows = [write_embedding(builder, node, copies) for node in found]
    copies.decode(builder)
    return rows
