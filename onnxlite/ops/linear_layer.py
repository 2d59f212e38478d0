"""Linear layers: the one view of a node that multiplies its input by a constant weight.

A convolution, a Gemm, or a MatMul with the addition of a bias behind it is a layer with a
geometry, an input, an output, a weight `[g, K, M]` and a bias `[g, M]`. Whoever reads, fits or
rounds the weights of layers does it through this view, and never looks at attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import (
    Names,
    add_initializer,
    const_array,
    const_tensor,
    is_op,
    node_name,
    rank,
    sole_consumer,
    value_names,
)
from onnxlite.ops.geometry import GemmForm, Geometry
from onnxlite.ops.table import Parameter, iter_parameters, spec_of
from onnxlite.patterns import check_patterns, matches
from onnxlite.records import EXCLUDED, Reason, Skipped

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class LinearLayer:
    """A node that multiplies its input by a constant weight, with its bias.

    Attributes:
        node: the convolution or product.
        geometry: how it multiplies.
        data: the value it reads.
        output: its output with the bias: that of `node`, or of the sum behind a MatMul.
        weight: the constant it multiplies by.
        bias_node: the node that adds the bias, or None where no bias can be added.
        bias_port: of `bias_node`.
        owns_weight: no other node reads the weight.
        names: value names in use in the model; shared by the layers found together.
    """

    node: ir.Node
    geometry: Geometry
    data: ir.Value
    output: ir.Value
    weight: ir.Value
    bias_node: ir.Node | None
    bias_port: int
    owns_weight: bool
    names: Names = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name or ""

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Groups, features and outputs of a group: `(g, K, M)`."""
        tensor = const_tensor(self.weight)
        assert tensor is not None
        return _matrix_shape(self.geometry, tensor)

    @property
    def features(self) -> int:
        """Inputs that make one output: K."""
        return self.matrix_shape[1]

    @property
    def matrix(self) -> Array64:
        """Present weight, float64[g, K, M]."""
        array = const_array(self.weight)
        assert array is not None
        return np.ascontiguousarray(self.geometry.matrix(array.astype(np.float64)))

    @property
    def bias(self) -> Array64:
        """Present bias, float64[g, M]; zeros where there is none."""
        groups, _, outputs = self.matrix_shape
        array = const_array(self._bias_value())
        if array is None:
            return np.zeros((groups, outputs))
        flat = array.astype(np.float64).reshape(-1) * self._bias_factor()
        return np.broadcast_to(flat, groups * outputs).reshape(groups, outputs).copy()

    def write(self, matrix: Array64, bias: Array64) -> None:
        """Rewrite in place: replace weight `[g, K, M]` and bias `[g, M]`.

        A weight that other nodes read as well stays, and so does the bias of a layer that
        cannot have one.
        """
        old = const_tensor(self.weight)
        assert old is not None
        if self.owns_weight:
            array = np.ascontiguousarray(self.geometry.tensor(matrix))
            cast = array.astype(old.dtype.numpy())
            self.weight.const_value = ir.Tensor(cast, dtype=old.dtype, name=self.weight.name)
        if self.bias_node is not None:
            flat = (bias.reshape(-1) / self._bias_factor()).astype(old.dtype.numpy())
            self._write_bias(flat)

    def _write_bias(self, flat: NDArray[Any]) -> None:
        """Write into the layer's own bias, else into a new initializer."""
        assert self.bias_node is not None
        column = flat[:, None] if self.geometry.channel_axis == -2 else flat
        old = self._bias_value()
        if old is not None and old.is_initializer() and len(list(old.uses())) == 1:
            assert old.const_value is not None
            if old.const_value.size == flat.size:
                column = column.reshape(old.const_value.shape.numpy())
            old.const_value = ir.tensor(np.ascontiguousarray(column), name=old.name)
            old.shape = ir.Shape(column.shape)
            return
        graph = self.bias_node.graph
        assert isinstance(graph, ir.Graph)
        base = old.name if old is not None and old.name else f"{self.node.name}_bias"
        value = add_initializer(graph, self.names.fresh(base), np.ascontiguousarray(column))
        if self.bias_port >= len(self.bias_node.inputs):
            self.bias_node.resize_inputs(self.bias_port + 1)
        self.bias_node.replace_input_with(self.bias_port, value)

    def _bias_value(self) -> ir.Value | None:
        if self.bias_node is None or self.bias_port >= len(self.bias_node.inputs):
            return None
        return self.bias_node.inputs[self.bias_port]

    def _bias_factor(self) -> float:
        gemm = self.bias_node is not None and is_op(self.bias_node, "Gemm")
        return GemmForm.of(self.node).beta if gemm else 1.0


def find_layers(
    model: ir.Model, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[LinearLayer], list[Skipped]]:
    """Find the linear layers of a normalized model's main graph, in topological order.

    Args:
        model: nodes in topological order.
        include: patterns (`fnmatch`) of node or weight names; empty means all.
        exclude: patterns of names to leave out.

    Returns:
        The layers, and nodes with weights that are none, with the reason.

    Raises:
        OptionError: a pattern matches no layer.
    """
    layers: list[LinearLayer] = []
    skipped: list[Skipped] = []
    known: list[str] = []
    position = {node: index for index, node in enumerate(model.graph)}
    taken = value_names(model)
    for parameter in iter_parameters(model):
        node = parameter.node
        if spec_of(node).geometry is None:
            continue
        names = (node.name or "", parameter.value.name or "")
        known += names
        if include and not matches(names, include):
            continue
        if matches(names, exclude):
            found: LinearLayer | Reason = EXCLUDED
        elif node not in position:
            found = Reason("in-body", "inside the body of a control-flow node")
        else:
            layer = _layer_of(parameter, taken)
            found = Reason("unsupported", layer) if isinstance(layer, str) else layer
        if isinstance(found, Reason):
            skipped.append(Skipped("repair", node_name(node), found.code, found.message))
        else:
            layers.append(found)
    check_patterns(
        (*include, *exclude),
        known,
        what="layer with weights",
        compared="the names of nodes and of weight tensors",
    )
    return sorted(layers, key=lambda layer: position[layer.node]), skipped


def _layer_of(parameter: Parameter, taken: Names) -> LinearLayer | str:
    node, weight, tensor = parameter.node, parameter.value, parameter.tensor
    if tensor.dtype not in _FLOATS:
        return f"its weight {weight.name!r} is {tensor.dtype}, not float"
    if not tensor.size:
        return f"its weight {weight.name!r} is empty"
    data = node.inputs[1 - parameter.port]
    if data is None or const_tensor(data) is not None:
        return "its data is a constant"
    geometry_of = spec_of(node).geometry
    assert geometry_of is not None
    geometry = geometry_of(node, _shape(tensor))
    if isinstance(geometry, str):
        return geometry
    if spec_of(node).channel_axis == -1 and (rank(data) or 2) < 2:
        return "its data is a vector"
    bias_node: ir.Node | None = node
    port, output = 2, node.outputs[0]
    if is_op(node, "MatMul"):
        bias_node, port = _bias_sum(output, geometry)
        output = output if bias_node is None else bias_node.outputs[0]
    present = bias_node is not None and port < len(bias_node.inputs)
    bias = bias_node.inputs[port] if bias_node is not None and present else None
    if bias is not None and (reason := _unusable_bias(bias, tensor, geometry)):
        return reason
    return LinearLayer(
        node=node,
        geometry=geometry,
        data=data,
        output=output,
        weight=weight,
        bias_node=bias_node,
        bias_port=port,
        owns_weight=(
            weight.is_initializer()
            and not weight.is_graph_output()
            and len(list(weight.uses())) == 1
        ),
        names=taken,
    )


def _bias_sum(product: ir.Value, geometry: Geometry) -> tuple[ir.Node | None, int]:
    """Find the sum with a constant, one number per channel, that alone reads a product."""
    node = sole_consumer(product)
    if node is None or not spec_of(node).sums or len(node.inputs) != 2:
        return None, 0
    port = 1 if node.inputs[0] is product else 0
    tensor = const_tensor(node.inputs[port])
    if tensor is None:
        return None, 0
    shape = _shape(tensor)
    # Broadcast along every other axis, and not itself of more axes than the product.
    axis = geometry.channel_axis
    along = len(shape) >= -axis and shape[axis] == tensor.size
    fits = len(shape) <= (rank(product) or 2)
    return (node, port) if fits and (tensor.size == 1 or along) else (None, 0)


def _unusable_bias(bias: ir.Value, weight: ir.TensorProtocol, geometry: Geometry) -> str | None:
    tensor = const_tensor(bias)
    if tensor is None:
        return f"its bias {bias.name!r} is computed at run time"
    groups, _, outputs = _matrix_shape(geometry, weight)
    if tensor.size not in (1, groups * outputs):
        return f"its bias {bias.name!r} has {tensor.size} values, not one per output channel"
    if geometry.channel_axis == -1 and tensor.size > 1 and _shape(tensor)[-1] != tensor.size:
        return f"its bias {bias.name!r} does not lie along the output channels"
    return None


def _matrix_shape(geometry: Geometry, weight: ir.TensorProtocol) -> tuple[int, int, int]:
    # A view without data behind it: only its shape is looked at.
    empty = np.broadcast_to(np.float32(0), _shape(weight))
    groups, features, outputs = geometry.matrix(empty).shape
    return groups, features, outputs


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(dim) for dim in tensor.shape.numpy())


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm node with a constant operand: `alpha * (data @ weight) + beta * bias`.

    Attributes:
        node: the node.
        data: the operand that is computed at run time.
        weight: the constant operand, as it is stored.
        side: where the constant operand stands.
        transposed: the product takes the stored weight transposed.
        alpha: factor of the product.
        bias: what is added, if anything: broadcast over the rows.
        beta: factor of the bias.
    """

    node: ir.Node
    data: ir.Value
    weight: ir.Value
    side: Literal["left", "right"]
    transposed: bool = False
    alpha: float = 1.0
    bias: ir.Value | None = None
    beta: float = 1.0

    def matrix(self) -> NDArray[Any]:
        """The weight as MatMul takes it, times alpha: float32[..., k, n] (left: [..., m, k])."""
        array = const_array(self.weight)
        assert array is not None
        array = array.T if self.transposed else array
        return np.ascontiguousarray(array * np.float32(self.alpha), dtype=np.float32)


def find_product(node: ir.Node) -> Product | str | None:
    """The product that a node computes.

    Returns:
        The product; why it has no float32 matrix as a constant operand; or None for nodes
        that multiply no matrices.
    """
    if is_op(node, "MatMul"):
        return _matmul(node)
    if is_op(node, "Gemm"):
        return _gemm(node)
    return None


def _matmul(node: ir.Node) -> Product | str:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    constant = (const_tensor(left) is not None, const_tensor(right) is not None)
    if all(constant):
        return "both of its operands are constants"
    if not any(constant):
        return (
            "both of its operands are computed at run time, and to quantize both costs about "
            "what integers gain"
        )
    data, weight = (right, left) if constant[0] else (left, right)
    side: Literal["left", "right"] = "left" if constant[0] else "right"
    return _refusal(data, weight) or Product(node, data, weight, side)


def _gemm(node: ir.Node) -> Product | str:
    data, weight = node.inputs[0], node.inputs[1]
    assert data is not None
    assert weight is not None
    if const_tensor(weight) is None:
        return "its second operand is computed at run time, not a constant weight"
    if const_tensor(data) is not None:
        return "both of its operands are constants"
    form = GemmForm.of(node)
    if form.data_transposed:
        return "it transposes its data (transA)"
    return _refusal(data, weight) or Product(
        node,
        data,
        weight,
        "right",
        transposed=form.weight_transposed,
        alpha=form.alpha,
        bias=node.inputs[2] if len(node.inputs) > 2 else None,
        beta=form.beta,
    )


def _refusal(data: ir.Value, weight: ir.Value) -> str | None:
    tensor = const_tensor(weight)
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight {tensor.name!r} is {tensor.dtype}, not float32"
    if data.dtype not in (None, ir.DataType.FLOAT):
        return f"its data are {data.dtype}, not float32"
    if not tensor.size:
        return f"its weight {tensor.name!r} is empty"
    if len(tensor.shape) < 2:
        return f"its weight {tensor.name!r} has less than two axes"
    return None
