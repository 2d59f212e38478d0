"""The layers of a model that a linear fit can change: what they read, and where they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.graph import (
    Names,
    add_initializer,
    const_array,
    const_tensor,
    describe,
    is_op,
    rank,
    sole_consumer,
)
from onnxlite.ops import Parameter, iter_parameters
from onnxlite.records import Declined
from onnxlite.repair.geometry import Geometry, geometry_of

STEP = "repair"
_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One layer of the model under repair.

    Attributes:
        node: the convolution or product.
        geometry: how it multiplies.
        data: the value it reads.
        output: its output, with the bias: that of `node`, or of the Add after a MatMul.
        weight: the constant it multiplies by.
        biased: the node that adds the bias, or None where no bias can be added.
        bias_port: of `biased`.
        weight_free: the weight belongs to this layer alone.
    """

    node: ir.Node
    geometry: Geometry
    data: ir.Value
    output: ir.Value
    weight: ir.Value
    biased: ir.Node | None
    bias_port: int
    weight_free: bool

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Groups, features and outputs of a group: `(g, K, M)`."""
        tensor = const_tensor(self.weight)
        assert tensor is not None
        return _matrix_shape(self.geometry, tensor)

    @property
    def matrix(self) -> Array64:
        """The present weight, float64[g, K, M]."""
        array = const_array(self.weight)
        assert array is not None
        return np.ascontiguousarray(self.geometry.matrix(array.astype(np.float64)))

    @property
    def bias(self) -> Array64:
        """The present bias, float64[g, M]; zeros where there is none."""
        groups, _, outputs = self.matrix_shape
        array = const_array(self._bias_value())
        if array is None:
            return np.zeros((groups, outputs))
        flat = array.astype(np.float64).reshape(-1) * self._bias_factor()
        return np.broadcast_to(flat, groups * outputs).reshape(groups, outputs).copy()

    def write(self, matrix: Array64, bias: Array64) -> None:
        """Replace weight `[g, K, M]` and bias `[g, M]`; what is not free to change stays."""
        old = const_tensor(self.weight)
        assert old is not None
        if self.weight_free:
            array = np.ascontiguousarray(self.geometry.tensor(matrix))
            cast = array.astype(old.dtype.numpy())
            self.weight.const_value = ir.Tensor(cast, dtype=old.dtype, name=self.weight.name)
        if self.biased is not None:
            flat = (bias.reshape(-1) / self._bias_factor()).astype(old.dtype.numpy())
            self._write_bias(flat)

    def _write_bias(self, flat: NDArray[Any]) -> None:
        """Write the bias in place if it is this layer's own, else into a new initializer."""
        assert self.biased is not None
        column = flat[:, None] if self.geometry.channel_axis == -2 else flat
        old = self._bias_value()
        if old is not None and old.is_initializer() and len(list(old.uses())) == 1:
            assert old.const_value is not None
            if old.const_value.size == flat.size:
                column = column.reshape(old.const_value.shape.numpy())
            old.const_value = ir.tensor(np.ascontiguousarray(column), name=old.name)
            old.shape = ir.Shape(column.shape)
            return
        graph = self.biased.graph
        assert isinstance(graph, ir.Graph)
        taken = Names(v.name for node in graph.all_nodes() for v in node.outputs if v.name)
        taken |= {*graph.initializers, *(v.name for v in graph.inputs if v.name)}
        base = old.name if old is not None and old.name else f"{self.node.name}_bias"
        value = add_initializer(graph, taken.fresh(base), np.ascontiguousarray(column))
        if self.bias_port >= len(self.biased.inputs):
            self.biased.resize_inputs(self.bias_port + 1)
        self.biased.replace_input_with(self.bias_port, value)

    def _bias_value(self) -> ir.Value | None:
        if self.biased is None or self.bias_port >= len(self.biased.inputs):
            return None
        return self.biased.inputs[self.bias_port]

    def _bias_factor(self) -> float:
        beta = self.biased.attributes.get("beta") if self.biased is not None else None
        return float(beta.as_float()) if beta is not None else 1.0


def find_layers(
    model: ir.Model, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], list[Declined]]:
    """The layers of a normalised model that can be repaired, in topological order.

    Raises:
        OptionError: a pattern matches no layer.
    """
    layers: list[Layer] = []
    declined: list[Declined] = []
    matched: set[str] = set()
    main = {node: position for position, node in enumerate(model.graph)}
    for parameter in iter_parameters(model):
        node = parameter.node
        if not is_op(node, *_OPS):
            continue
        names = (node.name or "", parameter.value.name or "")
        matched.update(p for p in (*include, *exclude) if _matches(names, (p,)))
        if include and not _matches(names, include):
            continue
        if _matches(names, exclude):
            found: Layer | str = "excluded by name"
        elif node not in main:
            found = "inside the body of a control-flow node"
        else:
            found = _layer(parameter)
        if isinstance(found, str):
            declined.append(Declined(STEP, describe(node), found))
        else:
            layers.append(found)
    if unused := sorted({*include, *exclude} - matched):
        raise OptionError(
            f"no layer with weights matches {', '.join(map(repr, unused))}: patterns are compared "
            "with the names of nodes and of weight tensors"
        )
    return sorted(layers, key=lambda layer: main[layer.node]), declined


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _layer(parameter: Parameter) -> Layer | str:
    node, weight, tensor = parameter.node, parameter.value, parameter.tensor
    if tensor.dtype not in _FLOATS:
        return f"its weight {weight.name!r} is {tensor.dtype}, not float"
    if not tensor.size:
        return f"its weight {weight.name!r} is empty"
    data = node.inputs[1 - parameter.port]
    if data is None or const_tensor(data) is not None:
        return "its data is a constant"
    geometry = geometry_of(node, tuple(int(dim) for dim in tensor.shape.numpy()))
    if isinstance(geometry, str):
        return geometry
    if is_op(node, "MatMul", "Gemm") and (rank(data) or 2) < 2:
        return "its data is a vector"
    biased: ir.Node | None = node
    port, output = 2, node.outputs[0]
    if is_op(node, "MatMul"):
        biased, port = _bias_add(output, geometry)
        output = output if biased is None else biased.outputs[0]
    bias = biased.inputs[port] if biased is not None and port < len(biased.inputs) else None
    if bias is not None and (reason := _bias_refusal(bias, tensor, geometry)):
        return reason
    return Layer(
        node=node,
        geometry=geometry,
        data=data,
        output=output,
        weight=weight,
        biased=biased,
        bias_port=port,
        weight_free=(
            weight.is_initializer()
            and not weight.is_graph_output()
            and len(list(weight.uses())) == 1
        ),
    )


def _bias_add(product: ir.Value, geometry: Geometry) -> tuple[ir.Node | None, int]:
    """The Add of a constant, one number per channel, that alone reads a product."""
    add = sole_consumer(product)
    if add is None or not is_op(add, "Add"):
        return None, 0
    port = 1 if add.inputs[0] is product else 0
    tensor = const_tensor(add.inputs[port])
    if tensor is None:
        return None, 0
    shape = [int(dim) for dim in tensor.shape.numpy()]
    # Broadcast along every other axis, and not itself of more axes than the product.
    axis = geometry.channel_axis
    along = len(shape) >= -axis and shape[axis] == tensor.size
    fits = len(shape) <= (rank(product) or 2)
    return (add, port) if fits and (tensor.size == 1 or along) else (None, 0)


def _bias_refusal(bias: ir.Value, weight: ir.TensorProtocol, geometry: Geometry) -> str | None:
    tensor = const_tensor(bias)
    if tensor is None:
        return f"its bias {bias.name!r} is computed at run time"
    groups, _, outputs = _matrix_shape(geometry, weight)
    last = [int(dim) for dim in tensor.shape.numpy()]
    if tensor.size not in (1, groups * outputs):
        return f"its bias {bias.name!r} has {tensor.size} values, not one per output channel"
    if geometry.channel_axis == -1 and tensor.size > 1 and last[-1] != tensor.size:
        return f"its bias {bias.name!r} does not lie along the output channels"
    return None


def _matrix_shape(geometry: Geometry, weight: ir.TensorProtocol) -> tuple[int, int, int]:
    # A view without data behind it: only its shape is looked at.
    empty = np.broadcast_to(np.float32(0), tuple(int(dim) for dim in weight.shape.numpy()))
    groups, features, outputs = geometry.matrix(empty).shape
    return groups, features, outputs
