"""Checks and conversions of the raw protobuf, before `onnx_ir` reads it.

`onnx_ir` drops sparse initializers and training information without a word, takes a tensor
without data for zeros, and keeps text that is not text as bytes; so they are dealt with here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from onnxlite.errors import InvalidModelError, LoadError, UnsupportedError

#: Graphs have had sparse initializers since.
_SPARSE_IR_VERSION = 6


def validated(proto: onnx.ModelProto, *, where: str) -> onnx.ModelProto:
    """Check a model proto; return it, or a copy with its sparse tensors dense.

    Raises:
        LoadError: there is no graph, a tensor holds fewer data than it declares, or a name
            is not text: the file is truncated or damaged.
        InvalidModelError: no opset is declared, an attribute has no type, or a sparse tensor's
            indices are wrong.
        UnsupportedError: the model carries training information.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise LoadError(f"{where} holds no graph: it is not an ONNX model, or it is truncated")
    if proto.training_info:
        raise UnsupportedError(
            f"{where} carries training_info, which would be lost: export the model for inference"
        )
    if not proto.opset_import:
        raise InvalidModelError(f"{where} declares no opset_import: export the model again")
    sparse = False
    for message in _messages(proto):
        sparse = sparse or isinstance(message, onnx.SparseTensorProto)
        if isinstance(message, onnx.TensorProto):
            _check_tensor(message, where)
        else:
            if isinstance(message, onnx.NodeProto):
                _check_attributes(message, where)
            _check_text(message, where)
    return _densified(proto, where) if sparse else proto


def drop_initializer_value_info(proto: onnx.ModelProto) -> None:
    """Rewrite in place: drop the types of initializers from value_info.

    `onnx_ir` writes one for each, which is a tenth of a small quantized model. One with a doc
    string or metadata stays.
    """
    for graph in list(_graphs(proto.graph)):
        tensors = {tensor.name for tensor in graph.initializer}
        kept = [
            info
            for info in graph.value_info
            if info.name not in tensors or info.doc_string or info.metadata_props
        ]
        if len(kept) < len(graph.value_info):
            kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
            del graph.value_info[:]
            graph.value_info.extend(kept)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all below it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _graphs(inner)


def _messages(message: Message) -> Iterator[Message]:
    """Iterate over a message and all below it; tensors are leaves."""
    yield message
    if isinstance(message, onnx.TensorProto):
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)


def _check_attributes(node: onnx.NodeProto, where: str) -> None:
    for attribute in node.attribute:
        # A type that this version of ONNX does not know reads as undefined too.
        if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            raise InvalidModelError(
                f"{where}: attribute {attribute.name!r} of node {node.name!r} ({node.op_type}) has "
                "no type that ONNX knows: the file is damaged, export the model again"
            )


def _check_text(message: Message, where: str) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, str | bytes) else value:
                if not isinstance(text, str):
                    raise LoadError(
                        f"{where} is damaged: {field.full_name} is {text!r}, which is not UTF-8"
                    )


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    if not isinstance(tensor.name, str):
        raise LoadError(f"{where} is damaged: tensor name {tensor.name!r} is not UTF-8")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    place = f"{where}: tensor {tensor.name!r} {list(tensor.dims)}"
    try:
        dtype = ir.DataType(tensor.data_type or -1)  # 0 is "undefined"
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    except (KeyError, ValueError) as error:
        raise LoadError(f"{place} has the unknown data type {tensor.data_type}") from error
    if any(dim < 0 for dim in tensor.dims):
        raise LoadError(f"{place} has a negative dimension: the file is damaged")
    need, have, unit = prod(tensor.dims), len(getattr(tensor, field)), "values"
    if dtype == ir.DataType.STRING:
        pass
    elif tensor.HasField("raw_data"):
        need, have, unit = -(-need * dtype.bitwidth // 8), len(tensor.raw_data), "bytes"
    elif dtype.bitwidth in (2, 4):  # several to an element
        need = -(-need * dtype.bitwidth // 8)
    elif dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):  # real and imaginary part
        need *= 2
    if have != need:
        raise LoadError(
            f"{place} of type {dtype.name} needs {need} {unit} and has {have}: "
            "the file is truncated or damaged, export or copy it again"
        )


def _densified(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Make sparse tensors dense, as runtimes do: onnx_ir would drop them."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for message in list(_messages(result)):
        if isinstance(message, onnx.GraphProto):
            message.initializer.extend(_dense(t, where) for t in message.sparse_initializer)
            del message.sparse_initializer[:]
        elif isinstance(message, onnx.AttributeProto) and message.HasField("sparse_tensor"):
            # Constant<sparse_value> says the same as Constant<value> with the dense tensor.
            dense = _dense(message.sparse_tensor, where)
            message.Clear()
            message.CopyFrom(onnx.helper.make_attribute("value", dense))
    return result


def store_sparse(proto: onnx.ModelProto, names: Collection[str]) -> None:
    """Rewrite in place: store the named initializers of the main graph as sparse.

    Indices are int64 into the flattened tensor, as ONNX demands.
    """
    graph = proto.graph
    wanted = set(names) - {value.name for value in (*graph.input, *graph.output)}
    dense = []
    for tensor in graph.initializer:
        if tensor.name in wanted and tensor.data_location != onnx.TensorProto.EXTERNAL:
            array = onnx.numpy_helper.to_array(tensor).reshape(-1)
            places = np.flatnonzero(array).astype(np.int64)
            sparse = graph.sparse_initializer.add(dims=tensor.dims)
            sparse.values.CopyFrom(onnx.numpy_helper.from_array(array[places], tensor.name))
            sparse.indices.CopyFrom(onnx.numpy_helper.from_array(places, f"{tensor.name}_indices"))
        else:
            dense.append(tensor)
    if len(dense) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in dense]
        del graph.initializer[:]
        graph.initializer.extend(copies)
        proto.ir_version = max(proto.ir_version, _SPARSE_IR_VERSION)


def _dense(sparse: onnx.SparseTensorProto, where: str) -> onnx.TensorProto:
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    try:
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except (IndexError, ValueError, MemoryError) as error:
        raise InvalidModelError(
            f"{where}: sparse tensor {sparse.values.name!r} {list(sparse.dims)} cannot be made "
            f"dense: {error}"
        ) from error
    return onnx.numpy_helper.from_array(dense, sparse.values.name)
