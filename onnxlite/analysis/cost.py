"""Cost of a model: multiply-accumulates, parameters and bytes, layer by layer.

A *layer* is a node that has a MAC rule in the operator table or trained parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes
from onnxlite.graph import (
    STANDARD_DOMAINS,
    const_tensor,
    describe,
    is_op,
    iter_graphs,
    iter_nodes,
    subgraphs_of,
)
from onnxlite.inputs import Feed, InputSpec
from onnxlite.model import unmapped
from onnxlite.ops import ShapeOf, spec_of

#: Data types of shapes, indices and text, which are never parameters.
_NOT_PARAMETERS = frozenset({ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING})


def type_name(dtype: ir.DataType | None) -> str:
    """NumPy's name of a data type: `float32`, `int8`, `uint4`; `?` if unknown."""
    if dtype is None:
        return "?"
    # ONNX names FLOAT and DOUBLE, NumPy the number of bits.
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one layer.

    Attributes:
        name: the node's name.
        op_type: its operator.
        weight_shape: shape of its first weight; None if it has none.
        weight_type: stored type of that weight, for example `"int8"` before a
            DequantizeLinear.
        parameters: number of elements of its constants (weights, bias); a constant shared by
            two layers counts in both.
        size_bytes: bytes of its constants.
        macs: multiply-accumulates of one run; None if a shape is unknown.
        output_shape: shape of the first output; None if unknown.
        sparsity: fraction of exact zeros in its parameters, 0 to 1; None if not counted.
    """

    name: str
    op_type: str
    weight_shape: tuple[int, ...] | None
    weight_type: str | None
    parameters: int
    size_bytes: int
    macs: int | None
    output_shape: tuple[int, ...] | None
    sparsity: float | None = None


class ModelCost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a model.

    Attributes:
        parameters: elements of all constants except 64-bit integers, booleans and strings.
        macs: multiply-accumulates of one run; None if they are unknown, see `notes`.
        layers: one row per layer, subgraphs included, in the order of the graph.
        inputs: input shapes for which `macs` and `output_shape` are valid.
        notes: omissions and assumptions of `macs`.
    """

    parameters: int
    macs: int | None
    layers: tuple[LayerCost, ...]
    inputs: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]


def cost(
    model: ir.Model,
    *,
    feeds: Sequence[Feed] | None = None,
    inputs: Sequence[InputSpec] | None = None,
    batch: int = 1,
    sparsity: bool = False,
) -> ModelCost:
    """Count the cost of one run of `model`.

    An `If` counts its most expensive branch; the body of a `Loop` or `Scan` counts once.

    Args:
        model: the model; it is not changed.
        feeds: the first one sets the sizes of dynamic axes.
        inputs: with the batch axis of each, used if there are no feeds.
        batch: batch size, used if there are no feeds.
        sparsity: also count zeros, which reads every weight.
    """
    shape_of = concrete_shapes(model, feeds, inputs=inputs, batch=batch)
    notes: list[str] = []
    macs = _graph_macs(model.graph, shape_of, notes)
    sizes = {value.name or "?": shape_of(value) for value in model.graph.inputs}
    return ModelCost(
        parameters=sum(tensor.size for tensor in _constants(model) if is_parameter(tensor)),
        macs=macs,
        layers=tuple(
            _layer(node, shape_of, sparsity) for node in iter_nodes(model) if is_layer(node)
        ),
        inputs={name: shape for name, shape in sizes.items() if shape is not None},
        notes=tuple(dict.fromkeys(notes)),
    )


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in iter_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in iter_nodes(model):
        if is_op(node, "Constant") and (tensor := const_tensor(node.outputs[0])) is not None:
            yield tensor


def is_parameter(tensor: ir.TensorProtocol) -> bool:
    """Return True if a constant holds parameters, not a shape, indices or text."""
    return tensor.dtype not in _NOT_PARAMETERS


def _stored_constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the stored constant of an input, before reshapes and DequantizeLinear."""
    producer = value.producer() if value is not None else None
    if producer is not None and _wraps(producer):
        return _stored_constant(producer.inputs[0])
    return const_tensor(value)


def _wraps(node: ir.Node) -> bool:
    """Return True if a node only moves or dequantizes a stored weight."""
    return spec_of(node).moves_only or is_op(node, "DequantizeLinear")


def _parameters(node: ir.Node) -> list[ir.TensorProtocol]:
    tensors = [_stored_constant(value) for value in node.inputs]
    return [tensor for tensor in tensors if tensor is not None and is_parameter(tensor)]


def is_layer(node: ir.Node) -> bool:
    """Return True if a node multiplies, or holds weights: it has a row in tables of layers."""
    spec = spec_of(node)
    ports = [node.inputs[i] for i in spec.weights if i < len(node.inputs)]
    return spec.macs is not None or any(_stored_constant(port) is not None for port in ports)


def _layer(node: ir.Node, shape_of: ShapeOf, sparsity: bool) -> LayerCost:
    spec = spec_of(node)
    tensors = _parameters(node)
    weights = (_stored_constant(node.inputs[i]) for i in spec.weights if i < len(node.inputs))
    weight = next((w for w in weights if w is not None), None)
    size = sum(tensor.size for tensor in tensors)
    zeros = sum(_zeros(tensor) for tensor in tensors) if sparsity else 0
    return LayerCost(
        name=node.name or node.outputs[0].name or "?",
        op_type=node.op_type,
        weight_shape=None if weight is None else tuple(weight.shape.numpy()),
        weight_type=None if weight is None else type_name(weight.dtype),
        parameters=size,
        size_bytes=sum(tensor.nbytes for tensor in tensors),
        macs=spec.macs(node, shape_of) if spec.macs else 0,
        output_shape=shape_of(node.outputs[0]),
        sparsity=zeros / size if sparsity and size else None,
    )


def _zeros(tensor: ir.TensorProtocol) -> int:
    return tensor.size - int(np.count_nonzero(unmapped(tensor).numpy()))


def _graph_macs(graph: ir.Graph, shape_of: ShapeOf, notes: list[str]) -> int | None:
    """Sum MACs over a graph and its subgraphs; None, with a note, if some are unknown."""
    total: int | None = 0
    for node in graph:
        own = _own_macs(node, shape_of, notes)
        bodies = subgraphs_of(node)
        if bodies and is_op(node, "If"):
            inner = _branch_macs(node, bodies, shape_of, notes)
        else:
            inner = _sum([_graph_macs(body, shape_of, notes) for body in bodies])
            if inner:
                notes.append(f"the body of {describe(node)} is counted once, for one iteration")
        total = _sum([total, own, inner])
    return total


def _own_macs(node: ir.Node, shape_of: ShapeOf, notes: list[str]) -> int | None:
    spec = spec_of(node)
    if spec.macs is not None:
        macs = spec.macs(node, shape_of)
        if macs is None:
            notes.append(f"MACs unknown: shapes at some {node.op_type} are unknown; give samples")
        return macs
    if node.domain not in STANDARD_DOMAINS and any(len(t.shape) > 1 for t in _parameters(node)):
        notes.append(f"MACs unknown: operator {node.domain}.{node.op_type} has no MAC rule")
        return None
    return 0


def _branch_macs(
    node: ir.Node, branches: Sequence[ir.Graph], shape_of: ShapeOf, notes: list[str]
) -> int | None:
    """Count the most expensive branch; ignore unknown ones if another is known."""
    reasons: list[str] = []
    counts = [_graph_macs(branch, shape_of, reasons) for branch in branches]
    known = [count for count in counts if count is not None]
    if known and len(known) < len(counts):
        notes.append(f"{describe(node)}: only the branch that ran is counted")
    else:
        notes.extend(reasons)
    return max(known, default=None)


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count or 0 for count in counts)
