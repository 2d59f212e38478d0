"""A scalar factor far behind a layer, folded into the layer's weights.

Attention divides its scores by a constant. The factor commutes with everything between
it and the query projection: the product with the keys, the transposes and reshapes, and
the choice of the query part from a joint projection. Which output channels of the layer
the factor reaches is found by sending their numbers through the same NumPy operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_tensor, constant, is_op, rank, static_dim
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    bypass,
    const_ints,
    const_operand,
    is_float,
    made_by,
    owned_by,
    rule,
)
from onnxlite.simplify.rules.affine import Affine, affine_of
from onnxlite.simplify.rules.linear_folding import linear_of, obstacle, rebuilt, scaled_columns

Ids = NDArray[np.int64]

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather", "Split")
_MAX_IDS = 1 << 20


@dataclass(frozen=True)
class _Site:
    """Place for a factor: a layer, the Add of its bias if separate, and its channels."""

    layer: ir.Node
    add: ir.Node | None
    reached: NDArray[np.bool_]

    @property
    def top(self) -> ir.Node:
        """The node whose output has the bias."""
        return self.add or self.layer


@rule("fold-scale-upstream", "Mul", "Div")
def fold_scale_upstream(node: ir.Node, _context: Context) -> Outcome:
    """Linear -> (layout | MatMul with another value)* -> Mul or Div by a scalar: no Mul.

    The layer's weight and bias take the factor for the channels that reach the Mul.
    Declines when such a channel has another reader, or the weight is shared.
    """
    operand = const_operand(node)
    if operand is None or operand.array.size != 1 or not is_float(node.outputs[0]):
        return None
    if (node.op_type == "Div" and operand.port == 0) or not operand.array.all():
        return None
    if operand.array.ndim > (rank(operand.data) or 0) or bypass(node, operand.data) is None:
        return None
    factor = float(operand.array.item())
    factor = 1 / factor if node.op_type == "Div" else factor
    site = _site(operand.data, node)
    layer = linear_of(site.layer) if site is not None else None
    if site is None or layer is None:
        return None
    scale = np.where(site.reached, factor, 1.0)
    if (refused := obstacle(layer, Affine(operand.data, scale, np.zeros(())))) is not None:
        return refused
    bias = None
    if layer.bias is not None:
        beta = float(attribute(site.layer, "beta", 1.0))
        bias = np.broadcast_to(beta * layer.bias.astype(np.float64).reshape(-1), scale.shape)
        bias = bias * scale
    weight = partial(scaled_columns, layer, scale)
    nodes = [rebuilt(layer, site.layer.inputs[0], weight, bias)]
    if site.add is not None:
        nodes.append(_scaled_add(site.add, nodes[0], scale))
    replaced = (site.top.outputs[0], nodes[-1].outputs[0])
    return Replacement(tuple(nodes), (replaced, (node.outputs[0], operand.data)), before=site.top)


def _scaled_add(add: ir.Node, product: ir.Node, scale: NDArray[Any]) -> ir.Node:
    operand = const_operand(add)
    assert operand is not None
    bias = (operand.array.reshape(-1).astype(np.float64) * scale).astype(operand.array.dtype)
    return ir.node("Add", [product.outputs[0], constant(bias, f"{add.name}_bias")])


def _site(value: ir.Value, reader: ir.Node) -> _Site | None:
    """Walk up from `value`, which only `reader` may read, to a layer with constant weights."""
    path: list[ir.Value] = [value]
    while True:
        producer = made_by(path[-1], *_MOVES, like=reader)
        if producer is None or producer.inputs[0] is None:
            break
        path.append(producer.inputs[0])
    top = made_by(path[-1], "Add", "MatMul", "Gemm", like=reader)
    if top is None:
        return None
    if top.op_type == "MatMul" and all(const_tensor(v) is None for v in top.inputs):
        return _through_product(path, top, reader)
    add = top if top.op_type == "Add" else None
    layer_node = _biased(add) if add is not None else top
    layer = linear_of(layer_node) if layer_node is not None else None
    if layer is None or layer_node is None:
        return None
    reached = _reached(path[::-1], layer.axis, layer.outputs, reader)
    return None if reached is None else _Site(layer_node, add, reached)


def _through_product(path: list[ir.Value], product: ir.Node, reader: ir.Node) -> _Site | None:
    """Both operands of a product can take the factor, if nobody else reads the result."""
    readers = [reader, *(v.producer() for v in path[:-1])]
    if any(
        value.is_graph_output() or {user for user, _ in value.uses()} != {user_wanted}
        for value, user_wanted in zip(path, readers, strict=True)
    ):
        return None
    if any(not is_op(v.producer(), *_MOVES[:5]) for v in path[:-1]):
        return None
    if product.inputs[0] is product.inputs[1]:
        return None
    sites = (_site(value, product) for value in product.inputs if value is not None)
    return next((site for site in sites if site is not None), None)


def _biased(add: ir.Node) -> ir.Node | None:
    """The MatMul below an Add of a full bias vector over the last axis."""
    dims, operand = rank(add.outputs[0]), const_operand(add)
    if dims is None or operand is None:
        return None
    affine = affine_of(add, dims=dims, axis=dims - 1)
    width = static_dim(add.outputs[0], -1)
    if affine is None or operand.array.size != width:
        return None
    return owned_by(operand.data, "MatMul", like=add)


def _reached(path: list[ir.Value], axis: int, channels: int, reader: ir.Node) -> Any:
    """Return the channels that only the end of `path` gets: bool[channels] or None."""
    dims = _known_dims(path[0])
    if dims is None or axis >= len(dims) or dims[axis] != channels:
        return None
    if int(np.prod(dims)) > _MAX_IDS:
        return None
    shape = [channels if i == axis else 1 for i in range(len(dims))]
    ids: Ids | None = np.broadcast_to(np.arange(channels).reshape(shape), dims)
    assert ids is not None
    total = np.bincount(ids.reshape(-1), minlength=channels)
    elsewhere: set[int] = set()
    for value, following in zip(path, [*path[1:], None], strict=True):
        step = following.producer() if following is not None else reader
        if value.is_graph_output() or step is None:
            return None
        for user, _ in value.uses():
            if user is not step:
                other = _moved(user, user.outputs[0], ids) if is_op(user, "Gather") else None
                if other is None or user.graph is not reader.graph:
                    return None
                elsewhere.update(int(i) for i in np.unique(other))
        if following is not None and (ids := _moved(step, following, ids)) is None:
            return None
    counts = np.bincount(ids.reshape(-1), minlength=channels)
    reached = counts > 0
    if not np.array_equal(counts[reached], total[reached]) or elsewhere & set(
        np.flatnonzero(reached)
    ):
        return None
    return reached


def _known_dims(value: ir.Value) -> list[int] | None:
    """The shape with 1 for every dimension known only at run time."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else 1 for dim in value.shape]


def _moved(node: ir.Node, output: ir.Value, ids: Ids) -> Ids | None:
    """The channel numbers after a layout node, for one of its outputs."""
    if node.op_type == "Transpose":
        return ids.transpose(attribute(node, "perm"))
    if node.op_type == "Gather":
        indices, axis = const_ints(node.inputs[1]), int(attribute(node, "axis", 0))
        if indices is None or static_dim(node.inputs[0], axis) is None:
            return None
        return np.take(ids, indices[0] if rank(node.inputs[1]) == 0 else indices, axis)
    if node.op_type == "Split":
        axis = int(attribute(node, "axis", 0))
        sizes = [static_dim(part, axis) for part in node.outputs]
        known = [size for size in sizes if size is not None]
        if len(known) != len(sizes) or sum(known) != ids.shape[axis]:
            return None
        parts = np.split(ids, np.cumsum(known)[:-1], axis)
        return parts[list(node.outputs).index(output)]
    dims = _known_dims(output)
    return ids.reshape(dims) if dims is not None and int(np.prod(dims)) == ids.size else None


RULES = (fold_scale_upstream,)
