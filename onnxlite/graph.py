"""Queries of graphs that every pass uses, and names for new values.

Nothing here knows an operator's meaning; that is `onnxlite.ops`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from onnxlite.errors import InvalidModelError, LoadError

#: The names under which the standard operator set is known.
STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


def iter_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, every subgraph below it, and the bodies of the model's functions."""
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def iter_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the main graph and its subgraphs, outer before inner."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def node_name(node: ir.Node) -> str:
    """The name of a node, of its first output where it has none, or `"?"`."""
    return node.name or (node.outputs[0].name if node.outputs else None) or "?"


def describe(node: ir.Node) -> str:
    """Describe a node for messages: operator, name, and the shapes of its inputs.

    >>> # "Conv node 'conv1' (1x3x8x8, 4x3x3x3)"
    """
    shapes = ", ".join(_shape_text(value) for value in node.inputs if value is not None)
    return f"{node.op_type} node {node_name(node)!r}" + (f" ({shapes})" if shapes else "")


def _shape_text(value: ir.Value) -> str:
    if value.shape is None:
        return "?"
    return "x".join(map(_dim_text, value.shape)) or "scalar"


def _dim_text(dim: object) -> str:
    """A dimension as a number or a name; formulas and names of shape inference say nothing."""
    text = str(dim)
    told = text.isdigit() or (text.isidentifier() and text != "None")
    return text if told and not text.startswith("unk__") else "?"


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Return True if `node` is one of these operators of the standard domain."""
    return node is not None and node.domain in STANDARD_DOMAINS and node.op_type in op_types


def const_array(value: ir.Value | None) -> NDArray[Any] | None:
    """The constant behind a value: an initializer or the output of a Constant node.

    A graph input with a default is not a constant: its caller may replace it.
    """
    tensor = const_tensor(value)
    return None if tensor is None else tensor_array(tensor)


def tensor_array(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """The data of a tensor; raises `LoadError` if its external file has gone since `load`."""
    try:
        return tensor.numpy()
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read the data of tensor {tensor.name!r}: {error}") from error


def const_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant tensor behind a value, without reading its data; see `const_array`."""
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    return ir.convenience.get_const_tensor(value)


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """The value of a constant with exactly one element, whatever its rank."""
    tensor = const_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    array = const_array(value)
    assert array is not None
    item: float | int | bool = array.reshape(()).item()
    return item


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`, or None if it has more readers or is an output."""
    if value.is_graph_output():
        return None
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 else None


def values_read(node: ir.Node) -> tuple[ir.Value, ...]:
    """The computed values that a node or its bodies take from the node's graph, each once."""
    return tuple(value for value in inputs_and_captures(node) if const_tensor(value) is None)


def inputs_and_captures(node: ir.Node) -> tuple[ir.Value, ...]:
    """List what a node or its bodies take from the node's graph, constants too, each once."""
    values = dict.fromkeys(value for value in node.inputs if value is not None)
    for graph in subgraphs_of(node):
        for inner in graph.all_nodes():
            values.update((v, None) for v in inner.inputs if v and v.graph is node.graph)
        values.update((v, None) for v in graph.outputs if v.graph is node.graph)
    return tuple(values)


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    """The bodies of a control-flow node; none for other nodes."""
    graphs: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            graphs.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            graphs += attr.as_graphs()
    return graphs


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape if every dimension is a known number."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(dim) for dim in value.shape)  # type: ignore[arg-type]


def static_dim(value: ir.Value | None, axis: int) -> int | None:
    """One dimension if it is a known number; negative axes count from the end."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The plain Python value of an attribute, or `default` if it is absent."""
    attr = node.attributes.get(name)
    if attr is None or attr.is_ref():
        return default
    return list(attr.value) if isinstance(attr.value, tuple) else attr.value


class Names(set[str]):
    """Names in use, which also gives out free ones."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        super().__init__(taken)
        self._last: dict[str, int] = {}

    def fresh(self, base: str) -> str:
        """Return a free name, which is in use from now on: `base`, or `base_1`, `base_2`, ...

        Numbers are never tried twice, so that n names of one base take n steps.
        """
        name, number = base, self._last.get(base, 0)
        while name in self:
            number += 1
            name = f"{base}_{number}"
        if number:
            self._last[base] = number
        self.add(name)
        return name


def value_names(model: ir.Model) -> Names:
    """Every value name in the model, subgraphs included (they share one scope)."""
    names = Names()
    for graph in model.graphs():
        names.update(value.name for value in graph.inputs if value.name)
        names.update(graph.initializers)
        for node in graph:
            names.update(value.name for value in node.outputs if value.name)
    return names


def node_names(model: ir.Model) -> Names:
    """Every node name in the model, subgraphs included."""
    return Names(node.name for node in iter_nodes(model) if node.name)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def constant(data: NDArray[Any] | np.generic | ir.TensorProtocol, name: str) -> ir.Value:
    """Make a constant that is in no graph yet.

    Args:
        data: an array, or a tensor, which may be lazy; it gets the name as well.
        name: of the value.
    """
    if isinstance(data, np.ndarray | np.generic):
        data = ir.tensor(np.ascontiguousarray(data).reshape(data.shape), name=name)
    data.name = name
    return Tape().initializer(data, name)


def add_initializer(
    graph: ir.Graph, name: str, data: NDArray[Any] | np.generic | ir.TensorProtocol
) -> ir.Value:
    """Register a new constant in `graph` under `name`, which must be free; see `constant`."""
    value = constant(data, name)
    graph.register_initializer(value)
    return value


def name_call_outputs(model: ir.Model) -> None:
    """Rewrite in place: give every output of a call of the model's functions a name.

    A call may leave outputs out. `onnx_ir` drops the last ones when it writes a model, which
    runtimes refuse, and a node of an inlined body whose only output has no name is not valid.
    """
    if not model.functions:
        return
    names = Names(all_value_names(model))
    for graph in iter_graphs(model):
        for node in graph:
            function = model.functions.get(node.op_identifier())
            if function is None:
                continue
            if len(node.outputs) < len(function.outputs):
                node.resize_outputs(len(function.outputs))
            for output, made in zip(node.outputs, function.outputs, strict=False):
                if not output.name:
                    output.name = names.fresh(f"{node.op_type}_{made.name}")


def all_value_names(model: ir.Model) -> Iterator[str]:
    """Every value name in the model, subgraphs and function bodies included."""
    for graph in iter_graphs(model):
        yield from (value.name for value in graph.inputs if value.name)
        yield from graph.initializers
        yield from (value.name for node in graph for value in node.outputs if value.name)


def check_structure(model: ir.Model) -> None:
    """Rewrite in place: sort the graph; check that every value is defined once.

    Raises:
        InvalidModelError: a cycle, an undefined value, or a value defined twice.
    """
    for graph in iter_graphs(model):
        defined: set[str] = set()
        for value in _definitions(graph):
            if value.name and value.name in defined:
                producer = value.producer()
                where = describe(producer) if producer else "the graph's inputs"
                raise InvalidModelError(
                    f"value {value.name!r} is defined twice, the second time by {where}: "
                    "every value needs one definition; export the model again"
                )
            if value.name:
                defined.add(value.name)
    _check_defined(model)
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.graph.sort()
    except ValueError as error:
        raise InvalidModelError(
            "the graph has a cycle, so it cannot be run; export the model again"
        ) from error


def _definitions(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _check_defined(model: ir.Model) -> None:
    for graph in iter_graphs(model):
        for node in graph:
            for index, value in enumerate(node.inputs):
                if value is not None and not _is_defined(value):
                    raise InvalidModelError(
                        f"input {index} of {describe(node)} is {value.name!r}, which nothing "
                        "defines: the file is damaged or was cut out of a larger model"
                    )
        for value in graph.outputs:
            if not _is_defined(value):
                raise InvalidModelError(
                    f"output {value.name!r} of graph {graph.name!r} is defined by nothing: "
                    "the file is damaged or was cut out of a larger model"
                )


def _is_defined(value: ir.Value) -> bool:
    return (
        value.producer() is not None
        or value.const_value is not None
        or value.is_graph_input()
        or value.is_initializer()
    )
