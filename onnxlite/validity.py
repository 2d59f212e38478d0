"""Validity of a step's result: it declares what its source declared, and onnx accepts it.

Shape inference, ONNX's version converter and the passes of `onnx_ir` all rewrite what a model
declares of its inputs and outputs, and each has made graphs that onnx refuses. So every result
is treated alike, whoever made it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from onnxlite.errors import InvalidModelError, OnnxliteError, UnsupportedError
from onnxlite.graph import Names, all_value_names, iter_graphs, iter_nodes
from onnxlite.model import SPARSE_KEY, clone, load, to_proto

#: Scales, axes and bounds decide types and shapes; larger tensors are weights.
_WEIGHT_BYTES = 1024
#: Names of arguments that are models.
_MODELS = ("model", "reference", "candidate")
_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16))


def restore_interface(original: ir.Model, model: ir.Model, *, types: bool = True) -> None:
    """Rewrite in place: declare inputs and outputs as the original does.

    Shapes, types, doc strings and metadata are restored, dynamic and unknown dimensions too; a
    shape or type that is not declared may become known. Names and order stay as they are, see
    `interface_difference`.

    Args:
        original: the model that `model` was made from.
        model: inputs are matched by name, outputs by position.
        types: False keeps the types that `model` has.
    """
    declared = {value.name: value for value in _fed(original)}
    for value in _fed(model):
        if value.name in declared:
            _declare(value, declared[value.name], types=types)
    for old, new in zip(original.graph.outputs, model.graph.outputs, strict=False):
        if not new.is_graph_input():
            _declare(new, old, types=types)


def _declare(value: ir.Value, declared: ir.Value, *, types: bool) -> None:
    if types and declared.type is not None:
        value.type = declared.type
    if declared.shape is None:
        # onnx refuses tensors without a shape, so one that was inferred stays.
        value.shape = value.shape if isinstance(value.type, ir.TensorType) else None
    else:
        value.shape = declared.shape.copy()
    value.doc_string = declared.doc_string
    value.metadata_props.clear()
    value.metadata_props.update(declared.metadata_props)


def interface_difference(
    original: ir.Model, candidate: ir.Model, *, any_width: bool = False
) -> str | None:
    """Say how inputs or outputs differ: names, order, types, and shapes of inputs.

    Args:
        original: the model that `candidate` was made from.
        candidate: the model to check.
        any_width: float32, float16 and bfloat16 count as one type.

    Returns:
        The first difference; None if there is none. An output without a declared type may get
        one, and declared shapes of outputs bind nobody: `restore_interface` keeps them.
    """
    for kind, old, new in (
        ("input", _fed(original), _fed(candidate)),
        ("output", list(original.graph.outputs), list(candidate.graph.outputs)),
    ):
        if [v.name for v in old] != [v.name for v in new]:
            return f"the {kind}s are {[v.name for v in new]} instead of {[v.name for v in old]}"
        for a, b in itertools.zip_longest(old, new):
            both_float = any_width and a.dtype in _FLOATS and b.dtype in _FLOATS
            if a.type is not None and a.type != b.type and not both_float:
                return f"{kind} {a.name!r} became {b.type} instead of {a.type}"
            if kind == "input" and str(a.shape) != str(b.shape):
                return f"{kind} {a.name!r} has shape {b.shape} instead of {a.shape}"
    return None


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def invalidity(original: ir.Model, model: ir.Model, *, any_width: bool = False) -> str | None:
    """Rewrite in place: drop inner shapes if they are wrong; say what is not valid otherwise.

    Engines infer wrong shapes for some operators, and rewrites leave stale ones: nothing needs
    them, and onnx infers them again.

    Args:
        original: the model that `model` was made from; what is wrong with it as well is allowed.
        model: the model to check.
        any_width: see `interface_difference`.

    Returns:
        How the interface differs, or what `onnx.checker` refuses; None for a valid model.
    """
    difference = interface_difference(original, model, any_width=any_width)
    if difference is not None or checker_fault(model) is None:
        return difference
    if checker_fault(original) is not None:
        return None
    clear_inner_shapes(model)
    fault = checker_fault(model)
    return None if fault is None else f"onnx refuses it: {fault}"


def clear_inner_shapes(model: ir.Model) -> None:
    """Rewrite in place: clear all computed shapes except those of the model's outputs."""
    for node in iter_nodes(model):
        for value in node.outputs:
            if not (value.is_graph_output() and node.graph is model.graph):
                value.shape = None


def checker_fault(model: ir.Model) -> str | None:
    """Return the first line of what `onnx.checker` refuses, with types and shapes; None if valid.

    Weights are not read, so a model of any size costs little memory.
    """
    bare = clone(model)
    bare.meta.pop(SPARSE_KEY, None)
    take_weights(bare, iter_graphs(bare))
    try:
        onnx.checker.check_model(to_proto(bare), full_check=True)
    except UnsupportedError:
        return None  # more than 2 GiB in attributes: onnx cannot check that in memory
    # The checker raises errors of several kinds, of protobuf among them.
    except Exception as error:
        text = [line for line in str(error).splitlines() if line.strip()]
        return text[0] if text else type(error).__name__
    return None


def explained(error: Exception, arguments: Mapping[str, Any], name: str) -> Exception:
    """Return what the checker has against a model that broke a function, or the error itself.

    Models that ONNX Runtime runs need not pass the checker, which takes time as well: so it is
    asked only about a model that cannot be handled.

    Args:
        error: anything but errors that are raised on purpose.
        arguments: of the function by name; the first invalid model is to blame.
        name: of the function.
    """
    if isinstance(error, OnnxliteError | OSError | MemoryError):
        return error
    for key in _MODELS:
        try:
            fault = checker_fault(load(arguments[key])) if key in arguments else None
        except OnnxliteError as refusal:
            fault = str(refusal)
        if fault is not None:
            return InvalidModelError(f"{name} cannot handle the model, which onnx refuses: {fault}")
    return error


def take_weights(model: ir.Model, graphs: Iterable[ir.Graph]) -> dict[str, ir.TensorProtocol]:
    """Rewrite in place: make inputs of the weights, for tools that need no values of them.

    Args:
        model: gets an input for every weight above 1 KiB that is not an input already.
        graphs: the graphs whose weights are taken; those of subgraphs get free names.

    Returns:
        The weights by the name of their input.
    """
    taken: dict[str, ir.TensorProtocol] = {}
    names = Names(all_value_names(model))
    for graph in graphs:
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _WEIGHT_BYTES or value.is_graph_output():
                continue
            if value.is_graph_input():
                continue
            del graph.initializers[name]
            if graph is not model.graph:
                value.name = names.fresh(name)
            value.const_value = None
            model.graph.inputs.append(value)
            taken[value.name or name] = tensor
    return taken
