"""One storage of a weight that some nodes read as integers and others as float.

    w -> Gather, w_q -> DequantizeLinear -> MatMul      becomes

    w_q -> Cast -> Mul scale -> Gather, w_q -> DequantizeLinear -> MatMul

The float readers get the rounded numbers. ONNX Runtime folds Cast and Mul when it loads the model
(unlike DequantizeLinear), so they cost no time per run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, drop_unused

#: Smaller weights save less than the added nodes take.
_MIN_BYTES = 1 << 10


@dataclass(frozen=True)
class IntegerCopy:
    """Integers of a weight, `weight = (stored - zero) * scale`.

    Attributes:
        stored: the initializer with the integers.
        scale: float32, broadcasts with the integers.
        transposed: the integers are those of the transposed weight.
        zero: what stands for 0.
        shape: of the integers as a weight, if they are stored in another shape.
    """

    stored: ir.Value
    scale: NDArray[Any]
    transposed: bool = False
    zero: int = 0
    shape: tuple[int, ...] | None = None


class IntegerCopies:
    """Integers of the weights of a model, for the nodes that read these as float."""

    def __init__(self) -> None:
        self._copies: dict[ir.Value, IntegerCopy] = {}

    def add(self, weight: ir.Value, copy: IntegerCopy) -> None:
        """Record the integers of a weight; the first ones are kept."""
        self._copies.setdefault(weight, copy)

    def decode(self, builder: GraphBuilder) -> int:
        """Rewrite in place: decode the integers for all other readers; return how many weights.

        Args:
            builder: of the model, in which the integers are in the graph of their weight.
        """
        count = 0
        for weight, copy in self._copies.items():
            tensor, graph = weight.const_value, weight.graph
            if tensor is None or tensor.nbytes < _MIN_BYTES or not isinstance(graph, ir.Graph):
                continue
            if not weight.uses() or weight.is_graph_output() or copy.stored.graph is not graph:
                continue
            decoded = _decoded(builder, graph, weight, copy)
            decoded.type, decoded.shape = weight.type, weight.shape
            weight.replace_all_uses_with(decoded)
            drop_unused([weight])
            count += 1
        return count


def _decoded(
    builder: GraphBuilder, graph: ir.Graph, weight: ir.Value, copy: IntegerCopy
) -> ir.Value:
    at, name = builder.start(graph), f"{weight.name}_decoded"
    value = at.op("Cast", [copy.stored], {"to": int(ir.DataType.FLOAT)}, name=name)
    if copy.zero:
        zero = at.constant(f"{name}_zero", np.float32(copy.zero))
        value = at.op("Sub", [value, zero], name=name)
    scale = at.constant(f"{name}_scale", copy.scale.astype(np.float32))
    value = at.op("Mul", [value, scale], name=name)
    if copy.shape is not None:
        shape = at.constant(f"{name}_shape", np.array(copy.shape, np.int64))
        value = at.op("Reshape", [value, shape], name=name)
    return at.op("Transpose", [value], {"perm": [1, 0]}, name=name) if copy.transposed else value
