"""Reading and writing models: the only file that touches models on disk.

Inside onnxlite a model is an `onnx_ir.Model`, whose large tensors stay memory-mapped
until somebody needs their values. At the boundary a `ModelLike` is accepted, and
`give_back` returns the kind that came in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec, Protocol, TypeAlias, overload

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError

from onnxlite.errors import InvalidModelError, LoadError, UnsupportedError
from onnxlite.graph import (
    check_structure,
    iter_graphs,
    iter_nodes,
    name_call_outputs,
    tensor_array,
)
from onnxlite.proto import drop_initializer_value_info, store_sparse, validated

P = ParamSpec("P")


class HoldsModel(Protocol):
    """A record with a model, such as the `Result` of a step."""

    @property
    def model(self) -> onnx.ModelProto | ir.Model:
        """The model."""
        ...


#: A model as a file or in memory.
PlainModel: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | ir.Model
#: What every public function accepts as a model.
ModelLike: TypeAlias = PlainModel | HoldsModel

#: Protobuf cannot serialise a message of 2 GiB or more.
PROTO_LIMIT_BYTES = 2**31 - 1

#: In `ir.Model.meta`: the names of initializers that are written as sparse ones.
SPARSE_KEY = "onnxlite.sparse"
_SOURCE_KEY = "onnxlite.source"


def plain_model(source: ModelLike) -> PlainModel:
    """Return the model that a result holds; anything else as it is."""
    if isinstance(source, str | os.PathLike | onnx.ModelProto | ir.Model):
        return source
    return source.model


def load(source: ModelLike) -> ir.Model:
    """Read a model without loading its external tensors into memory.

    Args:
        source: a path, a `ModelProto`, an `ir.Model` or a step's `Result`. Models in memory are
            copied (an `ir.Model` shares its tensors' data), so that the result may be changed.

    Returns:
        The model, structurally checked: every value defined once, before its use.

    Raises:
        LoadError: the file is missing, empty, truncated or not ONNX, or its external
            data are missing or too short.
        InvalidModelError: the graph has a cycle, an undefined or a doubly defined value.
        UnsupportedError: the model carries training information.
    """
    source = plain_model(source)
    if isinstance(source, ir.Model):
        model = clone(source)
        name_call_outputs(model)
        check_structure(model)
        return model
    if isinstance(source, onnx.ModelProto):
        # onnx_ir writes names through to the tensor protos that it was given.
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        model = _from_proto(proto, where="the ModelProto")
        if external := next(_external_tensors(model), None):
            raise LoadError(
                f"the ModelProto's tensor {external.name!r} lives in the external file "
                f"{os.fspath(external.location)!r}, whose directory a ModelProto does not know: "
                "pass the model's path instead, or load it with its external data"
            )
        name_call_outputs(model)
        check_structure(model)
        return model
    return _read(Path(source))


def clone(model: ir.Model) -> ir.Model:
    """Copy a model's structure; tensor data are shared, never copied.

    Raises:
        InvalidModelError: the graph refers to a value that nothing defines.
    """
    try:
        copy = model.clone()
    # onnx_ir wraps what it finds in a RuntimeError per level of nesting.
    except (ValueError, RuntimeError) as error:
        raise InvalidModelError(
            f"the model cannot be copied, a node uses a value before or without its definition "
            f"({_root(error)}): sort the graph, or export the model again"
        ) from error
    copy.meta.update(model.meta)
    # onnx_ir names nodes that have no name, without a look at the names of the others.
    for old, new in zip(iter_nodes(model), iter_nodes(copy), strict=True):
        if not old.name:
            new.name = ""
    return copy


@overload
def give_back(source: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto: ...
@overload
def give_back(source: ModelLike, model: ir.Model) -> ir.Model | onnx.ModelProto: ...
def give_back(source: ModelLike, model: ir.Model) -> onnx.ModelProto | ir.Model:
    """Return `model` in the kind of `source`: `ModelProto` in, `ModelProto` out."""
    return to_proto(model) if isinstance(plain_model(source), onnx.ModelProto) else model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialise a model with all its tensors inside.

    Raises:
        UnsupportedError: the tensors exceed the 2 GiB that a protobuf message can hold, or
            something in the model has no form in ONNX.
    """
    if size_bytes(model) >= PROTO_LIMIT_BYTES:
        raise UnsupportedError(
            f"the model holds {size_bytes(model) / 2**30:.1f} GiB of tensors and a ModelProto at "
            "most 2: pass a path or an ir.Model to get an ir.Model, and save that"
        )
    with embedded(model):
        proto = serialized(model)
    drop_initializer_value_info(proto)
    store_sparse(proto, model.meta.get(SPARSE_KEY, ()))
    return proto


def serialized(model: ir.Model) -> onnx.ModelProto:
    """Serialise a model as it is: external tensors stay references.

    Raises:
        UnsupportedError: something in the model has no form in ONNX.
    """
    try:
        return ir.to_proto(model)
    except ir.serde.SerdeError as error:
        raise UnsupportedError(f"the model cannot be serialised: {_root(error)}") from error


def to_bytes(model: ir.Model) -> bytes:
    """Serialise a model below 2 GiB with its tensors; or `UnsupportedError`."""
    try:
        return bytes(to_proto(model).SerializeToString())
    except (EncodeError, ValueError) as error:
        raise UnsupportedError(f"the model cannot be serialised: {error}") from error


def size_bytes(model: ir.Model) -> int:
    """Count the bytes of all tensors: initializers and attributes, everywhere."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def mapped_files(model: ir.Model) -> frozenset[Path]:
    """The files that the model was read from or has tensors mapped from, resolved."""
    files = {Path(tensor.path).resolve() for tensor in _external_tensors(model)}
    source = model.meta.get(_SOURCE_KEY)
    return frozenset(files | ({Path(source)} if source else set()))


def source_files(model: ModelLike) -> frozenset[Path]:
    """The files behind a model argument, which no output may replace."""
    model = plain_model(model)
    if isinstance(model, onnx.ModelProto):
        return frozenset()
    return mapped_files(model if isinstance(model, ir.Model) else load(model))


def unmapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A handle on the same data that shares no mapping with `tensor`.

    An external tensor keeps its pages mapped once it was read, so one pass over a large
    model would hold all of it in memory. Read through this handle and drop it.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or "",
        base_dir=tensor.base_dir,
    )


def disk_bytes(path: str | os.PathLike[str]) -> int:
    """Size of a saved model: the `.onnx` file and every external file it refers to."""
    path = Path(path)
    files = {Path(t.path).resolve() for t in _external_tensors(load(path))}
    return path.stat().st_size + sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def embedded(model: ir.Model, *, initializers: bool = True) -> Iterator[None]:
    """Within the context external tensors count as inline, so they are serialised.

    Args:
        model: its tensors are swapped, and swapped back at the end.
        initializers: False leaves initializers external; tensors in attributes, which
            cannot be written to a data file, are always inline.
    """
    slots = list(_external_slots(model)) if initializers else list(_external_attributes(model))
    try:
        for tensor, put in slots:
            array = tensor_array(tensor)
            put(ir.Tensor(array, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name))
        yield
    finally:
        for tensor, put in slots:
            put(tensor)


#: An external tensor, and how to put another one in its place.
_Slot: TypeAlias = tuple[ir.ExternalTensor, Callable[[ir.TensorProtocol], None]]


def _external_slots(model: ir.Model) -> Iterator[_Slot]:
    for graph in iter_graphs(model):
        for value in graph.initializers.values():
            if isinstance(tensor := value.const_value, ir.ExternalTensor):
                yield tensor, partial(setattr, value, "const_value")
    yield from _external_attributes(model)


def _external_attributes(model: ir.Model) -> Iterator[_Slot]:
    def put(node: ir.Node, name: str, tensor: ir.TensorProtocol) -> None:
        node.attributes[name] = ir.AttrTensor(name, tensor)

    for graph in iter_graphs(model):
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    tensor = attribute.as_tensor()
                    if isinstance(tensor, ir.ExternalTensor):
                        yield tensor, partial(put, node, name)


def _read(path: Path) -> ir.Model:
    try:
        if not path.exists():
            raise LoadError(f"no model file at {str(path)!r}: check the path")
        if path.is_dir():
            raise LoadError(f"{str(path)!r} is a directory: name the .onnx file in it")
        if path.is_file() and path.stat().st_size == 0:
            raise LoadError(f"{str(path)!r} is empty: export or copy the model again")
        proto = onnx.load(str(path), load_external_data=False)
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"cannot read {str(path)!r}: {error}") from error
    # Besides DecodeError the text and JSON readers have classes of their own.
    except Exception as error:
        raise LoadError(
            f"{str(path)!r} is not a readable ONNX model (truncated, or another format): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    model = _from_proto(proto, where=str(path))
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.parent.absolute())
    _check_external(model, path)
    name_call_outputs(model)
    check_structure(model)
    model.meta[_SOURCE_KEY] = str(path.resolve())
    return model


def _from_proto(proto: onnx.ModelProto, *, where: str) -> ir.Model:
    proto = validated(proto, where=where)
    try:
        model = ir.from_proto(proto)
    # onnx_ir reports malformed protos with many exception types; all mean the same here.
    except Exception as error:
        raise InvalidModelError(f"{where} is not a valid ONNX model: {_root(error)}") from error
    assert isinstance(model, ir.Model)
    for tensor in _tensors(model):
        # onnx_ir has read the properties, and on writing adds them to those of the proto.
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            tensor.raw.ClearField("metadata_props")
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        # Two names of the standard domain; all else here looks it up under the short one.
        if (version := imports.pop("ai.onnx", None)) is not None:
            imports.setdefault("", version)
    return model


def _root(error: BaseException) -> BaseException:
    """Return the innermost cause: onnx_ir wraps it once per level of nesting."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in iter_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    return (tensor for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor))


def _check_external(model: ir.Model, path: Path) -> None:
    directory = path.parent.resolve()
    for tensor in _external_tensors(model):
        location = Path(os.fspath(tensor.location))
        file = Path(tensor.path)
        if location.is_absolute() or not file.resolve().is_relative_to(directory):
            raise LoadError(
                f"tensor {tensor.name!r} of {str(path)!r} points outside the model's directory "
                f"({str(location)!r}, maybe a link): runtimes refuse that; copy the file beside "
                "the model"
            )
        if not file.is_file():
            raise LoadError(
                f"tensor {tensor.name!r} of {str(path)!r} needs the external file {str(file)!r}, "
                "which is missing: copy it beside the model"
            )
        if file.stat().st_nlink > 1:
            raise LoadError(
                f"external file {str(file)!r} is hard-linked, which onnx refuses for security: "
                "copy it beside the model"
            )
        offset = tensor.offset or 0
        if tensor.length is not None and tensor.length != tensor.nbytes:
            raise LoadError(
                f"tensor {tensor.name!r} of {str(path)!r} has {tensor.nbytes} bytes and refers to "
                f"{tensor.length} at offset {offset} of {str(file)!r}: export the model again"
            )
        if (need := offset + tensor.nbytes) > file.stat().st_size:
            raise LoadError(
                f"external file {str(file)!r} is truncated: tensor {tensor.name!r} ends at byte "
                f"{need}, the file at {file.stat().st_size}; copy or export it again"
            )


#: Where tensors go on save: by size, always beside the model, or always inside.
ExternalData = Literal["auto", "always", "never"]
