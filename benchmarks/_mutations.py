"""Mutations of model files and of samples, each made again by its number."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from onnxlite.inputs import Feed
from tests.golden.nets import NETS as GOLDEN
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd

#: Content of the file that no model may read.
CANARY = b"read from outside of the folder!"
#: Small golden nets.
_NETS = ("perceptron", "branching", "recurrent")
_BOUNDARIES = (0, 1, -1, 2, 3, 7, -7, 1 << 20, (1 << 31) - 1, 1 << 40, -(1 << 63))
_TENSOR_TYPES = tuple(range(23))
_ATTRIBUTE_TYPES = tuple(range(15))

Bytes = Callable[[bytes, random.Random], bytes]
Structure = Callable[[onnx.ModelProto, random.Random], None]


class Mutant(NamedTuple):
    """A mutated model in a file, and samples for a step.

    Attributes:
        what: kind of mutation.
        path: of the model.
        samples: possibly mutated.
        feed: one that the original takes.
        strict: the result of a step may be held against the checker.
    """

    what: str
    path: Path
    samples: Any
    feed: Feed
    strict: bool


def mutant(seed: int, folder: Path, outside: Path) -> Mutant:
    """Write a mutated model.

    Args:
        seed: decides everything.
        folder: of the model; empty.
        outside: a file that the model must not read.
    """
    rng = random.Random(f"mutant {seed}")
    names = _names()
    name = names[rng.randrange(len(names))]
    model, taken = _source(name)
    path = folder / "model.onnx"
    kind = rng.choice(("bytes", "structure", "structure", "structure", "external", "samples"))
    proto = onnx.ModelProto.FromString(model)
    samples: Any = [dict(feed) for feed in taken] * 4
    what = kind
    if kind == "bytes":
        path.write_bytes(_damaged(model, rng))
    elif kind == "external":
        what = f"external {_externalize(proto, path, outside, rng)}"
    elif kind == "samples":
        what, samples = _mutated_samples(taken, rng)
        path.write_bytes(model)
    else:
        what = rng.choice(tuple(_STRUCTURE))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _STRUCTURE[what](proto, rng)
        path.write_bytes(_serialized(proto, model))
    return Mutant(what, path, samples, taken[0], kind == "samples")


@cache
def _names() -> tuple[str, ...]:
    return (*(n for n in ODD if n not in NOT_RUNNABLE), *_NETS)


@cache
def _source(name: str) -> tuple[bytes, tuple[Feed, ...]]:
    """A model and feeds that it takes."""
    if name in ODD:
        return odd(name).SerializeToString(), tuple(feeds(name))
    net = GOLDEN[name]()
    data = net.samples
    rows = [{k: a[i : i + 2] if np.ndim(a) else a for k, a in data.items()} for i in (0, 2)]
    return net.model.SerializeToString(), tuple(rows)


def _serialized(proto: onnx.ModelProto, otherwise: bytes) -> bytes:
    try:
        content: bytes = proto.SerializeToString()
    # Text fields of mutated bytes need not be text.
    except ValueError:
        return otherwise
    return content


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip, drop, repeat, insert or cut bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, size = rng.randrange(max(len(out), 1)), rng.randrange(1, 17)
        match rng.randrange(5):
            case 0 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size]
            case 3:
                out[at:at] = rng.randbytes(size)
            case _:
                del out[max(at, len(out) // 2) :]
    return bytes(out)


def _graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    graphs, waiting = [], [proto.graph]
    while waiting:
        graphs.append(waiting.pop())
        waiting += [a.g for node in graphs[-1].node for a in node.attribute if a.HasField("g")]
    return graphs


def _any_node(proto: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto | None:
    nodes = [node for graph in _graphs(proto) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    return rng.choice(nodes) if nodes else None


def _any_tensor(proto: onnx.ModelProto, rng: random.Random) -> onnx.TensorProto | None:
    tensors = [tensor for graph in _graphs(proto) for tensor in graph.initializer]
    return rng.choice(tensors) if tensors else None


def _any_name(proto: onnx.ModelProto, rng: random.Random) -> str:
    names: list[str] = ["", "nothing makes this", *(v.name for v in proto.graph.input)]
    for graph in _graphs(proto):
        names += [name for node in graph.node for name in (*node.input, *node.output)]
        names += [tensor.name for tensor in graph.initializer]
    return rng.choice(names)


def _wire(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Another value at an input or an output of a node."""
    node = _any_node(proto, rng)
    if node is None:
        return
    ends = node.input if rng.random() < 0.7 else node.output
    match rng.randrange(4):
        case 0:
            ends.append(_any_name(proto, rng))
        case 1 if ends:
            del ends[rng.randrange(len(ends))]
        case _ if ends:
            ends[rng.randrange(len(ends))] = _any_name(proto, rng)


def _dims(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Other dims of a weight, or of a declared value."""
    tensor = _any_tensor(proto, rng)
    if tensor is not None and rng.random() < 0.5:
        if tensor.dims and rng.random() < 0.7:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_BOUNDARIES)
        else:
            tensor.dims.append(rng.choice(_BOUNDARIES))
        return
    values = [v for g in _graphs(proto) for v in (*g.input, *g.output, *g.value_info)]
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim]
    if dims:
        dim = rng.choice(dims)
        if rng.random() < 0.3:
            dim.dim_param = rng.choice(("", "n", "other", "2"))
        else:
            dim.dim_value = rng.choice(_BOUNDARIES)


def _types(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Another element type of a weight, or of a declared value."""
    tensor = _any_tensor(proto, rng)
    if tensor is not None and rng.random() < 0.5:
        tensor.data_type = rng.choice(_TENSOR_TYPES)
        return
    values = [v for g in _graphs(proto) for v in (*g.input, *g.output, *g.value_info)]
    if values:
        value = rng.choice(values)
        match rng.randrange(4):
            case 0:
                value.ClearField("type")
            case 1:
                value.type.sequence_type.elem_type.tensor_type.elem_type = 1
            case _:
                value.type.tensor_type.elem_type = rng.choice(_TENSOR_TYPES)


def _attributes(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Another value or type of an attribute, one less or one more."""
    node = _any_node(proto, rng)
    if node is None:
        return
    if not node.attribute or rng.random() < 0.1:
        name = rng.choice(("axis", "axes", "to", "perm", "group", "transB", "value", "alpha"))
        node.attribute.append(onnx.helper.make_attribute(name, rng.choice(_BOUNDARIES)))
        return
    attribute = node.attribute[rng.randrange(len(node.attribute))]
    match rng.randrange(5):
        case 0:
            node.attribute.remove(attribute)
        case 1:
            attribute.type = rng.choice(_ATTRIBUTE_TYPES)
        case 2:
            attribute.f = rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38))
        case 3 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_BOUNDARIES)
        case 3:
            attribute.ints.append(rng.choice(_BOUNDARIES))
        case _:
            attribute.i = rng.choice(_BOUNDARIES)


def _nodes(proto: onnx.ModelProto, rng: random.Random) -> None:
    """A node less, twice, elsewhere, or of another operator."""
    graphs = [graph for graph in _graphs(proto) if graph.node]
    if not graphs:
        return
    nodes = rng.choice(graphs).node
    node = nodes[rng.randrange(len(nodes))]
    match rng.randrange(5):
        case 0:
            nodes.remove(node)
        case 1:
            nodes.add().CopyFrom(node)
        case 2:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes.remove(node)
            nodes.insert(rng.randrange(len(nodes) + 1), copy)
        case 3:
            node.domain = rng.choice(("", "ai.onnx", "com.microsoft", "no.such"))
        case _:
            node.op_type = rng.choice(
                ("Relu", "Conv", "MatMul", "If", "Loop", "Gemm", "NoSuch", "")
            )


def _header(proto: onnx.ModelProto, rng: random.Random) -> None:
    """Another opset or IR version, an output less or twice."""
    match rng.randrange(4):
        case 0 if proto.opset_import:
            entry = proto.opset_import[rng.randrange(len(proto.opset_import))]
            entry.version = rng.choice((0, 1, 6, 9, 11, 13, 18, 21, 99, -1))
        case 1:
            proto.ir_version = rng.choice((0, 2, 3, 7, 99))
        case 2 if proto.graph.output:
            del proto.graph.output[rng.randrange(len(proto.graph.output))]
        case _ if proto.graph.output:
            proto.graph.output.add().CopyFrom(proto.graph.output[0])


def _values(proto: onnx.ModelProto, rng: random.Random) -> None:
    """NaN, infinities, zeros or numbers near the limit in a weight; or bytes less."""
    tensor = _any_tensor(proto, rng)
    if tensor is None:
        return
    if rng.random() < 0.2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        return
    try:
        array = onnx.numpy_helper.to_array(tensor).copy()
    # An earlier mutation has broken it.
    except Exception:
        return
    if array.dtype.kind == "f" and array.size:
        array.reshape(-1)[rng.randrange(array.size) :] = rng.choice(
            (np.nan, np.inf, -np.inf, 0.0, np.finfo(array.dtype).max, np.finfo(array.dtype).tiny)
        )
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


_STRUCTURE: Mapping[str, Structure] = {
    "wires": _wire,
    "dims": _dims,
    "types": _types,
    "attributes": _attributes,
    "nodes": _nodes,
    "header": _header,
    "weights": _values,
}


def _externalize(proto: onnx.ModelProto, path: Path, outside: Path, rng: random.Random) -> str:
    """Write the model with external data, and point one weight elsewhere; returns how."""
    onnx.save(proto, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    proto = onnx.load(path, load_external_data=False)
    tensors = [t for t in proto.graph.initializer if t.external_data]
    if not tensors:
        return "without weights"
    tensor = rng.choice(tensors)
    entries = {entry.key: entry for entry in tensor.external_data}
    how = rng.choice(("outside", "absolute", "link", "offset", "length", "missing", "short", "no"))
    match how:
        case "outside":
            entries["location"].value = f"../{outside.name}"
        case "absolute":
            entries["location"].value = str(outside)
        case "link":
            (path.parent / "link.data").symlink_to(outside)
            entries["location"].value = "link.data"
        case "offset" if "offset" in entries:
            entries["offset"].value = rng.choice(("-1", "1", "4096", "999999999999", "", "x"))
        case "length" if "length" in entries:
            entries["length"].value = rng.choice(("-1", "0", "1", "999999999999", "", "x"))
        case "missing":
            entries["location"].value = rng.choice(("gone.data", "", ".", "model.onnx"))
        case "short":
            data = path.parent / "model.onnx.data"
            data.write_bytes(data.read_bytes()[: rng.randrange(16)])
    path.write_bytes(proto.SerializeToString())
    return how


def _mutated_samples(taken: Sequence[Feed], rng: random.Random) -> tuple[str, Any]:
    """Samples that are wrong in one way."""
    how = rng.choice(
        (
            "nan",
            "infinite",
            "huge",
            "shape",
            "rank",
            "type",
            "empty",
            "name",
            "object",
            "none",
            "few",
        )
    )
    found: list[dict[str, Any]] = [dict(feed) for feed in taken]
    if how == "few" or not found[0]:
        return "samples few", rng.choice(([], [{}], None, 3, "no such file", [None], found[0]))
    feed = rng.choice(found)
    name = rng.choice(list(feed))
    array = np.array(feed[name])
    match how:
        case "nan" | "infinite" | "huge":
            number = {"nan": np.nan, "infinite": np.inf, "huge": 1e38}[how]
            if array.dtype.kind == "f" and array.size:
                array.reshape(-1)[rng.randrange(array.size)] = number
            feed[name] = array
        case "shape" | "rank":
            wider = how == "shape" and array.ndim
            feed[name] = np.concatenate([array, array], axis=-1) if wider else array[None]
        case "type":
            kinds = ("int8", "float64", "float16", "bool", "str") if array.dtype != object else "O"
            feed[name] = array.astype(rng.choice(kinds))
        case "empty":
            feed[name] = array[:0] if array.ndim else array
        case "name":
            feed["no such input"] = feed.pop(name)
        case "object":
            feed[name] = np.array([None, "text"], object)
        case _:
            feed[name] = None
    return f"samples {how}", found
