"""Operators that use a matrix row by row: products, and look-ups in a table.

A row is what makes one output of a product, or one entry of a table. It lies along an axis of
the matrix that the operator and its attributes decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.graph import attribute, is_op, rank
from onnxlite.ops.geometry import GemmForm


@dataclass(frozen=True)
class RowUse:
    """How a node uses the rows of the matrix at one of its ports.

    Attributes:
        kind: `"product"` multiplies data by it, `"lookup"` takes rows by index, `"transposed"`
            turns it for products and nothing else.
        axis: the matrix's axis that rows are counted along.
        addend: the port of what a product adds, None if there is nothing.
        products: the nodes that multiply: the node itself, or the readers of what it turned.
    """

    kind: Literal["product", "lookup", "transposed"]
    axis: int
    addend: int | None = None
    products: tuple[ir.Node, ...] = ()


def row_use(node: ir.Node, port: int) -> RowUse | None:
    """How `node` uses the rows of the matrix at `port`, None if it does not or only a part of it.

    Products are those of rows of data: a single vector, transposed data and factors other than 1
    are none.
    """
    if is_op(node, "MatMul") and port == 1:
        data = rank(node.inputs[0])
        return RowUse("product", 1, products=(node,)) if data is None or data > 1 else None
    if is_op(node, "Gemm") and port == 1:
        form = GemmForm.of(node)
        if not form.plain:
            return None
        added = len(node.inputs) > 2 and node.inputs[2] is not None
        return RowUse("product", form.output_axis, addend=2 if added else None, products=(node,))
    if is_op(node, "Gather") and port == 0 and attribute(node, "axis", 0) == 0:
        return RowUse("lookup", 0)
    if is_op(node, "Transpose") and attribute(node, "perm", [1, 0]) == [1, 0]:
        output = node.outputs[0]
        uses = list(output.uses())
        multiplied = uses and all(is_op(use.node, "MatMul") and use.idx == 1 for use in uses)
        if multiplied and not output.is_graph_output():
            return RowUse("transposed", 0, products=tuple(use.node for use in uses))
    return None
