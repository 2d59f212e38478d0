"""Inputs and outputs of a node that may have 16 bits, from ONNX's operator schemas.

A schema binds inputs and outputs to type variables and lists the types of each variable. If an
attribute defines the type of an output (`Cast`, `ConstantOfShape`, `RandomNormal`, ...), ONNX type
inference decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir

from onnxlite.quantize.float16.dtype_limits import half_tensor

_TYPE_NAMES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


@dataclass(frozen=True)
class HalfPorts:
    """16-bit inputs and outputs of one node; all others keep their types.

    Attributes:
        inputs: positions of the float32 inputs that become 16 bits.
        outputs: positions of the float32 outputs that become 16 bits.
        attributes: attributes to replace, which define the types of outputs.
    """

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    attributes: Mapping[str, ir.Attr] = field(default_factory=dict)


class HalfTypes:
    """Finder of 16-bit ports for the operator sets of one model.

    Args:
        opsets: opset version by domain.
        dtype: FLOAT16 or BFLOAT16.
    """

    def __init__(self, opsets: Mapping[str, int], dtype: ir.DataType) -> None:
        self._opsets, self._dtype = opsets, dtype
        self._schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = {}

    def ports(self, node: ir.Node) -> HalfPorts | str:
        """Return the ports of `node` that may have 16 bits, or why there are none.

        A node with subgraphs keeps float32 at its own inputs and outputs; the nodes inside
        have ports of their own.
        """
        schema = self._schema(node)
        if schema is None:
            return "ONNX has no schema of the operator"
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            return "it has subgraphs"
        if not all(isinstance(v.type, ir.TensorType | None) for v in _present(node)):
            return "it has an input or output that is a sequence, a map or an optional value"
        if unknown := next((v for v in node.inputs if v is not None and v.type is None), None):
            return f"the type of its input {unknown.name!r} is unknown"
        return self._ports(node, schema)

    def _ports(self, node: ir.Node, schema: onnx.defs.OpSchema) -> HalfPorts | str:
        declared = [
            (index, value, _formal(schema.inputs, index))
            for index, value in enumerate(node.inputs)
            if value is not None
        ]
        floats = {index for index, value, _ in declared if value.dtype == ir.DataType.FLOAT}
        type_name = _TYPE_NAMES[self._dtype]
        inputs = {i for i, _, formal in declared if i in floats and type_name in formal.types}
        bound = {formal.type_str: index in inputs for index, _, formal in declared}
        outputs, unbound = _float_outputs(node, schema, bound)
        attributes: dict[str, ir.Attr] = {}
        if unbound:
            inferred = self._inferred_outputs(node, schema, inputs, unbound)
            if inferred is None:
                return "ONNX type inference does not know the type of its output"
            outputs |= inferred[0]
            attributes = inferred[1]
        if inputs or outputs:
            return HalfPorts(frozenset(inputs), frozenset(outputs), attributes)
        if not floats:
            return "it has no values of type float32"
        name = next(formal.name for index, _, formal in declared if index == max(floats))
        return f"its input {name!r} has no {self._dtype.name.lower()} form"

    def _inferred_outputs(
        self, node: ir.Node, schema: onnx.defs.OpSchema, inputs: set[int], unbound: set[int]
    ) -> tuple[set[int], dict[str, ir.Attr]] | None:
        """Find outputs that inference or a replaced attribute makes 16 bits."""
        natural = self._inferred(node, schema, inputs, {})
        if natural is None:
            return None
        half = {index for index in unbound if natural.get(index) == self._dtype}
        attributes: dict[str, ir.Attr] = {}
        for attribute in self._candidates(node, schema):
            types = self._inferred(node, schema, inputs, {attribute.name: attribute})
            gained = {
                i for i in unbound if types is not None and types.get(i) == self._dtype
            } - half
            if gained:
                attributes[attribute.name] = attribute
                half |= gained
        return half, attributes

    def _candidates(self, node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[ir.Attr]:
        """Yield attributes with the type float32, rewritten to the 16-bit type."""
        for name, formal in schema.attributes.items():
            present = node.attributes.get(name)
            if present is not None and present.is_ref():
                continue
            if present is not None and present.type == ir.AttributeType.TENSOR:
                if (tensor := present.as_tensor()).dtype == ir.DataType.FLOAT:
                    yield ir.AttrTensor(name, half_tensor(tensor, self._dtype))
            elif formal.type == onnx.defs.OpSchema.AttrType.INT:
                default = onnx.helper.get_attribute_value(formal.default_value)
                if (present.as_int() if present is not None else default) == ir.DataType.FLOAT:
                    yield ir.AttrInt64(name, int(self._dtype))

    def _inferred(
        self,
        node: ir.Node,
        schema: onnx.defs.OpSchema,
        inputs: set[int],
        attributes: Mapping[str, ir.Attr],
    ) -> dict[int, ir.DataType] | None:
        """Infer output types for 16-bit inputs and replaced attributes.

        Returns:
            Type by output position; None if inference fails.
        """
        names = [f"i{i}" if value is not None else "" for i, value in enumerate(node.inputs)]
        present = {**node.attributes, **attributes}
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=names)
        proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
        proto.attribute.extend(ir.to_proto(attribute) for attribute in present.values())
        types = {}
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is not None:
                dtype = self._dtype if index in inputs else value.dtype
                types[names[index]] = onnx.helper.make_tensor_type_proto(int(dtype), None)
        imports = [onnx.helper.make_opsetid(d, v) for d, v in self._opsets.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, opset_imports=imports
            )
        # Inference functions raise exceptions of several types for unsuitable attributes.
        except Exception:
            return None
        return {
            int(name[1:]): ir.DataType(type_.tensor_type.elem_type)
            for name, type_ in found.items()
            if type_.HasField("tensor_type")
        }

    def _schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        key = node.domain, node.op_type
        if key not in self._schemas:
            try:
                version = self._opsets.get(node.domain, 1)
                self._schemas[key] = onnx.defs.get_schema(node.op_type, version, node.domain)
            except onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]


def _float_outputs(
    node: ir.Node, schema: onnx.defs.OpSchema, bound: Mapping[str, bool]
) -> tuple[set[int], set[int]]:
    """Find outputs bound to a 16-bit input type, and outputs that no input binds."""
    types = {
        index: _formal(schema.outputs, index).type_str
        for index, value in enumerate(node.outputs)
        if value.dtype == ir.DataType.FLOAT
    }
    half = {index for index, type_str in types.items() if bound.get(type_str)}
    unbound = {index for index, type_str in types.items() if type_str not in bound}
    return half, unbound


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _present(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    yield from (value for value in node.outputs if value.name)


def _formal(formals: Any, index: int) -> onnx.defs.OpSchema.FormalParameter:
    """Return the declaration of a port; the last one may be variadic."""
    formal: onnx.defs.OpSchema.FormalParameter = formals[min(index, len(formals) - 1)]
    return formal
