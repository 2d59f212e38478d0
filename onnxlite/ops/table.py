"""The operator table: all rows, and questions that it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS, const_tensor, is_op, iter_nodes
from onnxlite.ops import (
    attention,
    computed,
    conv,
    layout,
    matmul,
    normalization,
    pointwise,
    quantized,
    random_ops,
    recurrent,
    spatial,
)
from onnxlite.ops.spec import OpSpec, RowUse

_ROWS: tuple[OpSpec, ...] = (
    *conv.ROWS,
    *matmul.ROWS,
    *recurrent.ROWS,
    *pointwise.ROWS,
    *layout.ROWS,
    *spatial.ROWS,
    *normalization.ROWS,
    *attention.ROWS,
    *computed.ROWS,
    *quantized.ROWS,
    *random_ops.ROWS,
)

#: Every operator of the standard domain that onnxlite knows, by name.
OPS: Mapping[str, OpSpec] = MappingProxyType({row.op_type: row for row in _ROWS if not row.domain})

_OTHERS = {(row.domain, row.op_type): row for row in _ROWS if row.domain}
_UNKNOWN = OpSpec(op_type="")


def spec_of(node: ir.Node) -> OpSpec:
    """The table's row for a node; an unknown or custom operator gets an empty one."""
    if node.domain in STANDARD_DOMAINS:
        return OPS.get(node.op_type, _UNKNOWN)
    return _OTHERS.get((node.domain, node.op_type), _UNKNOWN)


def output_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The bounds that an activation clips its output to, infinite where it has none.

    Returns:
        `(low, high)`; None for operators that clip nothing, and for bounds that are computed at
        run time.
    """
    bounds = spec_of(node).output_range
    return None if bounds is None else bounds(node)


def row_use(node: ir.Node, port: int) -> RowUse | None:
    """Return how `node` uses the rows of the matrix at `port`; None if it does not.

    A product multiplies rows of data: a single vector, transposed data and factors other than 1
    give None, and so does a node that uses a part of the matrix.
    """
    rows = spec_of(node).rows
    return None if rows is None else rows(node, port)


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
    """Return the ports of a weight, a bias, or the scale and shift of a normalization."""
    spec = spec_of(node)
    ports = [*spec.weights, *spec.shifts]
    if spec.quant is not None and spec.quant.bias is not None:
        ports.append(spec.quant.bias)
    if spec.gain is not None:
        ports += [spec.gain, spec.gain + 1]
    return tuple(ports)


@dataclass(frozen=True)
class OutputSource:
    """Operators that compute a value.

    Attributes:
        op_type: of the last operator; empty for a graph input or a constant.
        kind: of the operator behind those that move or shift values: `"probabilities"`,
            `"linear"` (a layer with a constant weight), `"normalization"` or `"other"`.
    """

    op_type: str
    kind: Literal["probabilities", "linear", "normalization", "other"]


def output_source(output: ir.Value) -> OutputSource:
    """Find the operators that compute a value.

    An operator of two computed values, for example the division of a vector by its norm, moves
    and shifts nothing: it is what computes the value.
    """
    node = output.producer()
    last = "" if node is None else node.op_type
    while node is not None:
        spec = spec_of(node)
        if spec.scores == "makes":
            return OutputSource(last, "probabilities")
        if spec.gain is not None:
            return OutputSource(last, "normalization")
        if any(p < len(node.inputs) and const_tensor(node.inputs[p]) for p in spec.weights):
            return OutputSource(last, "linear")
        moving = [v for v in node.inputs if v is not None and const_tensor(v) is None]
        if not moving or not (spec.moves_only or spec.scores == "keeps"):
            break
        if len(moving) > 1 and not spec.linear:
            break  # two values; what is linear has sizes besides its data
        node = moving[0].producer()
    return OutputSource(last, "other")


def last_axis_affine(node: ir.Node) -> tuple[int, ...] | None:
    """Ports of the constants that scale (and shift) `node`'s output along its last axis.

    Returns:
        `(scale, shift)` or `(scale,)` if it has no shift; None if the node ends in no such
        step, or its constants do not lie along the last axis alone.
    """
    if is_op(node, "Mul"):
        ports: tuple[int, ...] = tuple(p for p in (0, 1) if const_tensor(node.inputs[p]))[:1]
    else:
        affine = spec_of(node).affine
        ports = tuple(p for p in affine if p < len(node.inputs) and node.inputs[p] is not None)
    tensors = [const_tensor(node.inputs[port]) for port in ports]
    along_last = all(tensor is not None and len(tensor.shape) == 1 for tensor in tensors)
    return ports if ports and along_last else None


def writes_inputs(model: ir.Model) -> bool:
    """Return True if a run may write into the arrays that the model is fed."""
    rules = ((node, spec_of(node).writes_inputs) for node in iter_nodes(model))
    return any(rule is not None and rule(node) for node, rule in rules)
