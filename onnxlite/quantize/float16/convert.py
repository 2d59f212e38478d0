"""Convert a float32 model to 16 bits by a plan: assign types, then insert Cast nodes.

Every float32 value keeps the type that its producer gives it. All readers of the other type read
it through one shared Cast. Values that enter or leave a subgraph stay float32, so each graph is
converted independently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxlite.graph import iter_nodes, value_names
from onnxlite.model import clone
from onnxlite.quantize.float16.dtype_limits import Rounding, half_tensor
from onnxlite.quantize.float16.options import IoType
from onnxlite.quantize.float16.plan import STEP, HalfPlan
from onnxlite.quantize.float16.port_types import HalfPorts
from onnxlite.records import Reason, Skipped

#: Smaller constants stay float32 if only float32 operators read them: a Cast takes more bytes.
_SMALL_BYTES = 1024


class HalfGraph:
    """Writer of 16-bit types and Cast nodes in one model.

    Args:
        model: a normalized model with inferred types; `rewrite` changes it in place.
        dtype: FLOAT16 or BFLOAT16.
        ports: 16-bit inputs and outputs of the nodes that compute in 16 bits.
        exact: nodes whose constants stay float32 as well.
        io: the type of the model's inputs and outputs.
        roundings: the rounding to 16 bits of each float32 constant.
    """

    def __init__(
        self,
        model: ir.Model,
        dtype: ir.DataType,
        ports: Mapping[ir.Node, HalfPorts],
        exact: Collection[ir.Node],
        io: IoType,
        roundings: Mapping[ir.Value, Rounding],
    ) -> None:
        self._model, self._dtype = model, dtype
        self._ports, self._exact, self._io = ports, frozenset(exact), io
        self._roundings = roundings
        self._names = value_names(model)
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._float_outputs = {
            value for graph in model.graphs() for value in graph.outputs if _is_float32(value)
        }
        self.clamped: list[ir.Value] = []
        self.kept: list[Skipped] = []
        self.constants = 0
        self.casts = 0

    def rewrite(self) -> None:
        """Assign the types of all values in place, then insert the Cast nodes."""
        reads = [(node, list(self._read_types(node))) for node in iter_nodes(self._model)]
        self._convert_constants()
        self._set_output_types()
        self._set_input_types()
        self._cast_reads(reads)
        for graph in self._model.graphs():
            self._restore_outputs(graph)

    def _set_output_types(self) -> None:
        """Assign 16-bit types to node outputs, and replace attributes that define types."""
        for node in iter_nodes(self._model):
            ports = self._ports.get(node)
            if ports is None:
                continue
            for attribute in ports.attributes.values():
                node.attributes[attribute.name] = attribute
            for index in ports.outputs:
                node.outputs[index].type = ir.TensorType(self._dtype)

    def _set_input_types(self) -> None:
        """Assign the 16-bit type to the float inputs of the model, unless `io` keeps them."""
        if self._io == "keep":
            return
        for value in self._model.graph.inputs:
            if _is_float32(value):
                value.type = ir.TensorType(self._dtype)

    def _cast_reads(self, reads: Sequence[tuple[ir.Node, list[tuple[int, ir.DataType]]]]) -> None:
        """Insert a Cast before every node input whose value has another type."""
        for node, types in reads:
            for index, dtype in types:
                value = node.inputs[index]
                if value is not None and value.dtype != dtype:
                    node.replace_input_with(index, self._cast(value, dtype))

    def _read_types(self, node: ir.Node) -> Iterator[tuple[int, ir.DataType]]:
        """Yield the type in which a node reads each of its float32 inputs."""
        ports = self._ports.get(node)
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float32(value):
                half = ports is not None and index in ports.inputs
                yield index, self._dtype if half else ir.DataType.FLOAT

    def _convert_constants(self) -> None:
        """Store constants in 16 bits where no float32 copy is needed."""
        for value, found in self._roundings.items():
            if (reason := self._stays_float(value, found)) is not None:
                self.kept.append(Skipped(STEP, value.name or "", reason.code, reason.message))
            else:
                self._record_clamped(value)
                value.const_value = self._half(value)
                value.type = ir.TensorType(self._dtype)
                self.constants += 1

    def _stays_float(self, value: ir.Value, found: Rounding) -> Reason | None:
        """Return the reason why a constant is not stored in 16 bits only, or None."""
        uses = value.uses()
        if not uses:
            return Reason("unused", "nothing reads it")
        if any(use.node in self._exact for use in uses):
            return Reason("kept-by-name", "a node that `exclude` names reads it")
        if all(self._reads_half(use.node, use.idx) for use in uses):
            return Reason("output", "it is an output") if value.is_graph_output() else None
        assert value.const_value is not None
        if value.const_value.nbytes <= _SMALL_BYTES:
            message = f"constants of {_SMALL_BYTES} bytes or fewer take less than a Cast would"
            return Reason("small-constant", message)
        return None if found.faithful else Reason("inexact-constant", found.fault)

    def _reads_half(self, node: ir.Node, index: int) -> bool:
        ports = self._ports.get(node)
        return ports is not None and index in ports.inputs

    def _half(self, value: ir.Value) -> ir.TensorProtocol:
        assert value.const_value is not None
        return half_tensor(value.const_value, self._dtype)

    def _record_clamped(self, value: ir.Value) -> None:
        found = self._roundings[value]
        if found.clamped or found.lifted:
            self.clamped.append(value)

    def _half_copy(self, value: ir.Value, graph: ir.Graph) -> ir.Value | None:
        """Add a 16-bit copy of a float32 constant; None if a Cast is smaller."""
        tensor, found = value.const_value, self._roundings.get(value)
        if tensor is None or found is None or value.dtype != ir.DataType.FLOAT:
            return None
        if found.faithful and tensor.nbytes > _SMALL_BYTES:
            return None
        self._record_clamped(value)
        name = self._names.fresh(f"{value.name}_{self._dtype.name.lower()}")
        half = self._half(value)
        half.name = name
        copy = ir.Value(
            name=name, shape=value.shape, type=ir.TensorType(self._dtype), const_value=half
        )
        graph.register_initializer(copy)
        return copy

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return `value` in another type, by one Cast for all its readers."""
        if (value, dtype) in self._casts:
            return self._casts[value, dtype]
        producer = value.producer()
        graph = value.graph if producer is None else producer.graph
        assert isinstance(graph, ir.Graph)
        if dtype == self._dtype and (half_copy := self._half_copy(value, graph)) is not None:
            self._casts[value, dtype] = half_copy
            return half_copy
        suffix = dtype.name.lower()
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}_to_{suffix}")
        out = node.outputs[0]
        out.name = self._names.fresh(f"{value.name}_{suffix}")
        out.type = ir.TensorType(dtype)
        if producer is not None:
            graph.insert_after(producer, node)
        elif len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        self._casts[value, dtype] = out
        self.casts += 1
        return out

    def _restore_outputs(self, graph: ir.Graph) -> None:
        """Restore the types of a graph's outputs, and the names of the main graph's."""
        main = graph is self._model.graph
        wanted = self._dtype if main and self._io != "keep" else ir.DataType.FLOAT
        renamed: dict[ir.Value, ir.Value] = {}
        for index, value in enumerate(graph.outputs):
            if value not in self._float_outputs or value.dtype == wanted:
                continue
            if value in renamed:
                graph.outputs[index] = renamed[value]
                continue
            out = self._cast(value, wanted)
            if main and not value.is_graph_input():
                name, out.shape = value.name or "", value.shape
                value.name = self._names.fresh(f"{name}_{self._dtype.name.lower()}")
                out.name = name
            graph.outputs[index] = renamed[value] = out


def _is_float32(value: ir.Value) -> bool:
    """Tell float32 tensors from all else; sequences of them cannot be cast."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


@dataclass(frozen=True)
class Prepared:
    """Float32 model that is ready for conversion.

    Attributes:
        model: the normalized model with inferred types.
        dtype: FLOAT16 or BFLOAT16.
        io: the type of the model's inputs and outputs.
        roundings: the rounding to 16 bits of each float32 constant.
        untyped: values that had no type before inference; the result does not store theirs.
    """

    model: ir.Model
    dtype: ir.DataType
    io: IoType
    roundings: Mapping[ir.Value, Rounding]
    untyped: Sequence[ir.Value]

    @property
    def has_floats(self) -> bool:
        """True if a constant, an input or a computed value is float32."""
        values = (*self.model.graph.inputs, *_values(self.model))
        return any(value.dtype == ir.DataType.FLOAT for value in values)


@dataclass(frozen=True)
class Converted:
    """Model converted to 16 bits.

    Attributes:
        model: the converted model.
        constants: number of constants stored in 16 bits.
        casts: number of inserted Cast nodes.
        clamped: by name of a constant that 16 bits cannot represent, the number of clamped
            elements; 0 for a scalar that was raised to the smallest number above zero.
        kept: float32 constants that are not stored in 16 bits, with the reason.
    """

    model: ir.Model
    constants: int
    casts: int
    clamped: Mapping[str, int]
    kept: Sequence[Skipped]


def convert(prepared: Prepared, plan: HalfPlan) -> Converted:
    """Convert a copy of the prepared model by a plan."""
    model = clone(prepared.model)
    nodes = dict(zip(iter_nodes(prepared.model), iter_nodes(model), strict=True))
    values = dict(zip(_values(prepared.model), _values(model), strict=True))
    graph = HalfGraph(
        model,
        prepared.dtype,
        {nodes[node]: ports for node, ports in plan.ports.items()},
        [nodes[node] for node in plan.exact],
        prepared.io,
        {values[value]: found for value, found in prepared.roundings.items()},
    )
    graph.rewrite()
    outputs = set(model.graph.outputs)
    for value in map(values.__getitem__, prepared.untyped):
        if value not in outputs:
            value.type = value.shape = None
    found = {values[value].name: r.clamped for value, r in prepared.roundings.items()}
    clamped = {value.name or "": found[value.name] for value in graph.clamped}
    return Converted(model, graph.constants, graph.casts, clamped, graph.kept)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()
    yield from computed(model)


def computed(model: ir.Model) -> Iterator[ir.Value]:
    """Return all node outputs, including those in subgraphs."""
    return (value for node in iter_nodes(model) for value in node.outputs)
