"""Build graphs: nodes and constants put into a model under names that are free.

    builder = GraphBuilder(model)
    at = builder.before(node)
    half = at.constant("half", np.array(0.5, np.float32))
    replace_node(node, [at.op("Mul", [x, half], name="halved")])

Nodes are recorded by `onnx_ir.tape`; this module decides where they go and how they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from onnxlite.graph import Names, add_initializer, graph_of, node_names, value_names

#: How new nodes are named: "own" gives them free names of nodes, "output" the name of their first
#: output, "none" leaves them without a name, which keeps small models small.
NodeNaming = Literal["own", "output", "none"]


class GraphBuilder:
    """Adds nodes and constants to one model, in any of its graphs.

    Args:
        model: changed in place by what is built.
        names: value names in use, if the caller shares them; found in the model if None.
        naming: how nodes are named.
    """

    def __init__(
        self, model: ir.Model, *, names: Names | None = None, naming: NodeNaming = "own"
    ) -> None:
        self.model = model
        self.names = value_names(model) if names is None else names
        self.naming = naming
        self.node_names = node_names(model) if naming == "own" else Names()
        self._shared: dict[tuple[int, str, tuple[int, ...], bytes], ir.Value] = {}

    def before(self, node: ir.Node) -> Place:
        """Return the place in front of `node`."""
        graph = graph_of(node)
        return Place(self, graph, lambda new: graph.insert_before(node, new))

    def after(self, node: ir.Node) -> Place:
        """Return the place behind `node`; nodes keep the order in which they are made."""
        graph = graph_of(node)
        last = node

        def insert(new: ir.Node) -> None:
            nonlocal last
            graph.insert_after(last, new)
            last = new

        return Place(self, graph, insert)

    def behind(self, value: ir.Value) -> Place:
        """Return the first place where `value` is defined."""
        producer = value.producer()
        if producer is not None:
            return self.after(producer)
        return self.start(value.graph if isinstance(value.graph, ir.Graph) else None)

    def start(self, graph: ir.Graph | None = None) -> Place:
        """Return the place in front of all nodes of a graph (default: the main graph)."""
        graph = self.model.graph if graph is None else graph
        last: ir.Node | None = None

        def insert(new: ir.Node) -> None:
            nonlocal last
            first = next(iter(graph), None)
            if last is not None:
                graph.insert_after(last, new)
            elif first is not None:
                graph.insert_before(first, new)
            else:
                graph.append(new)
            last = new

        return Place(self, graph, insert)

    def end(self, graph: ir.Graph | None = None) -> Place:
        """Return the place behind all nodes of a graph (default: the main graph)."""
        graph = self.model.graph if graph is None else graph
        return Place(self, graph, graph.append)

    def constant(self, graph: ir.Graph, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """Return an initializer of `graph` that holds `array`; equal ones are shared."""
        array = np.asarray(array)
        key = (id(graph), array.dtype.name, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.initializer(graph, name, array)
        return self._shared[key]

    def initializer(
        self, graph: ir.Graph, name: str, data: NDArray[Any] | np.generic | ir.TensorProtocol
    ) -> ir.Value:
        """Register a new initializer under a free name that begins with `name`.

        Args:
            graph: gets it.
            name: the base of its name.
            data: an array, or a tensor, which may be lazy.
        """
        return add_initializer(graph, self.names.fresh(name), data)

    def make(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        outputs: int = 1,
        domain: str = "",
    ) -> ir.Node:
        """Make a node that is in no graph yet; see `Place.op` for the arguments."""
        tape = Tape()
        values = tape.op_multi_out(
            op_type, inputs, attributes or {}, num_outputs=outputs, domain=domain
        )
        if self.naming == "own":
            tape.nodes[0].name = self.node_names.fresh(name)
        for index, value in enumerate(values):
            value.name = self.names.fresh(name if outputs == 1 else f"{name}_{index}")
        if self.naming == "output":
            tape.nodes[0].name = values[0].name
        if domain:
            self.model.graph.opset_imports.setdefault(domain, 1)
        return tape.nodes[0]


class Place:
    """A place in a graph that nodes go to, one behind the other; made by a `GraphBuilder`."""

    def __init__(
        self, builder: GraphBuilder, graph: ir.Graph, insert: Callable[[ir.Node], object]
    ) -> None:
        self.graph = graph
        self._builder = builder
        self._insert = insert

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        domain: str = "",
    ) -> ir.Value:
        """Insert a node of one output and return that output.

        Args:
            op_type: the operator.
            inputs: values of this or an outer graph; None for an input left out.
            attributes: plain Python values.
            name: the base of the names of the node and its output.
            domain: of the operator; the model imports its first version if it has none.
        """
        return self.ops(op_type, inputs, attributes, name=name, outputs=1, domain=domain)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        outputs: int,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Insert a node of several outputs and return them, named `name_0`, `name_1`, ..."""
        node = self._builder.make(
            op_type, inputs, attributes, name=name, outputs=outputs, domain=domain
        )
        self._insert(node)
        if self._builder.naming == "none":
            node.name = ""  # the graph names what it is given
        return tuple(node.outputs)

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """Return an initializer of the graph that holds `array`; equal ones are shared."""
        return self._builder.constant(self.graph, name, array)

    def initializer(
        self, name: str, data: NDArray[Any] | np.generic | ir.TensorProtocol
    ) -> ir.Value:
        """Register a new initializer in the graph; see `GraphBuilder.initializer`."""
        return self._builder.initializer(self.graph, name, data)


def take_over(new: ir.Value, old: ir.Value) -> None:
    """Give `new` the name, type, shape, readers and place among the outputs of `old`."""
    new.type, new.shape = old.type, old.shape
    if old.name:
        new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def replace_node(node: ir.Node, outputs: Sequence[ir.Value]) -> None:
    """Remove `node`; `outputs` take over its own, and constants that only it read go."""
    for old, new in zip(node.outputs, outputs, strict=True):
        take_over(new, old)
    read = [value for value in node.inputs if value is not None]
    graph_of(node).remove(node, safe=True)
    drop_unused(read)


def drop_unused(values: Sequence[ir.Value]) -> None:
    """Remove those of `values` from their graphs that are initializers and nothing reads."""
    for value in values:
        graph = value.graph
        if not isinstance(graph, ir.Graph) or not value.is_initializer() or value.uses():
            continue
        if not value.is_graph_output() and not value.is_graph_input():
            graph.initializers.pop(value.name or "", None)


def drop_unused_initializers(model: ir.Model) -> None:
    """Rewrite in place: remove the initializers of all graphs that nothing reads."""
    for graph in model.graphs():
        drop_unused(list(graph.initializers.values()))
