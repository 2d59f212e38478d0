"""Shape arithmetic and reshapes, followed symbolically.

Exporters write `x.reshape(x.shape[0], -1)` as Shape, Gather, Unsqueeze and Concat. Each
entry of such a vector is a number or a `Dim`: a size that is only known at run time, but
known to be the same as another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxlite.graph import attribute, const_tensor, constant, is_op, rank, static_dim, static_shape
from onnxlite.simplify.rewrite import (
    Context,
    Outcome,
    Replacement,
    axes_of,
    bypass,
    const_ints,
    has_axes,
    ints,
    made_by,
    replace_with,
    rule,
)
from onnxlite.simplify.rules.no_ops import slice_bounds

_MAX_DEPTH = 24
_MAX_ENTRIES = 64


@dataclass(frozen=True)
class Dim:
    """A size known only at run time: equal names are equal sizes."""

    name: str


Entry: TypeAlias = int | Dim


def shape_entries(value: ir.Value | None) -> list[Entry] | None:
    """The shape of a value as entries; an unnamed dimension is named after the value."""
    if value is None or value.shape is None:
        return None
    return [
        dim if isinstance(dim, int) else Dim(dim.value or f"{value.name}[{axis}]")
        for axis, dim in enumerate(value.shape)
    ]


def entries_of(value: ir.Value | None, *, depth: int = 0) -> list[Entry] | None:
    """The entries of an int64 scalar or vector; None where the length is not known.

    A scalar gives one entry.
    """
    constant = const_ints(value)
    if constant is not None:
        return list(constant) if len(constant) <= _MAX_ENTRIES else None
    node = value.producer() if value is not None else None
    if value is None or node is None or depth > _MAX_DEPTH:
        return None
    entries = _computed(node, depth + 1)
    return _opaque(value) if entries is None else entries


def _opaque(value: ir.Value) -> list[Entry] | None:
    """Entries about which nothing is known but their number."""
    if value.shape is None or len(value.shape) > 1 or not value.shape.is_static():
        return None
    if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    count = int(value.shape[0]) if len(value.shape) else 1  # type: ignore[arg-type]
    return [Dim(f"{value.name}.{i}") for i in range(count)] if count <= _MAX_ENTRIES else None


def _computed(node: ir.Node, depth: int) -> list[Entry] | None:
    data = node.inputs[0] if node.inputs else None
    match node.op_type if is_op(node, node.op_type) else "":
        case "Shape":
            shape = shape_entries(data)
            start, end = attribute(node, "start", 0), attribute(node, "end")
            return None if shape is None else shape[start:end]
        case "Identity" | "Unsqueeze" | "Squeeze" | "Reshape":
            flat = node.outputs[0].shape is not None and len(node.outputs[0].shape) <= 1
            return entries_of(data, depth=depth) if flat else None
        case "Cast":
            integral = node.outputs[0].dtype in (ir.DataType.INT64, ir.DataType.INT32)
            return entries_of(data, depth=depth) if integral and _integral(data) else None
        case "Concat":
            parts = [entries_of(part, depth=depth) for part in node.inputs]
            if any(part is None for part in parts):
                return None
            return [entry for part in parts if part is not None for entry in part]
        case "Gather":
            return _gathered(node, depth)
        case "Slice":
            return _sliced(node, depth)
        case "Add" | "Sub" | "Mul" | "Div":
            return _arithmetic(node, depth)
    return None


def _integral(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in (ir.DataType.INT64, ir.DataType.INT32)


def _gathered(node: ir.Node, depth: int) -> list[Entry] | None:
    entries, indices = entries_of(node.inputs[0], depth=depth), const_ints(node.inputs[1])
    if entries is None or indices is None or attribute(node, "axis", 0) not in (0, -1):
        return None
    if any(not -len(entries) <= index < len(entries) for index in indices):
        return None
    return [entries[index] for index in indices]


def _sliced(node: ir.Node, depth: int) -> list[Entry] | None:
    entries, bounds = entries_of(node.inputs[0], depth=depth), slice_bounds(node)
    if entries is None or bounds is None or any(len(part) != 1 for part in bounds):
        return None
    (start,), (end,), _, (step,) = bounds
    return entries[start:end:step] if step > 0 else None


def _arithmetic(node: ir.Node, depth: int) -> list[Entry] | None:
    """Entry by entry, where both are numbers or one is neutral."""
    left, right = (entries_of(value, depth=depth) for value in node.inputs)
    if left is None or right is None or len(left) != len(right) or not _integral(node.inputs[0]):
        return None
    result: list[Entry] = []
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        neutral = 0 if node.op_type in ("Add", "Sub") else 1
        if b == neutral:
            result.append(a)
        elif a == neutral and node.op_type in ("Add", "Mul"):
            result.append(b)
        elif isinstance(a, int) and isinstance(b, int):
            if node.op_type == "Div" and (b == 0 or a % b):
                return None
            result.append(
                {"Add": a + b, "Sub": a - b, "Mul": a * b}.get(node.op_type, a // (b or 1))
            )
        else:
            result.append(Dim(f"{node.outputs[0].name}.{index}"))
    return result


RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_SHAPE_OPS = (
    "Shape", "Gather", "Slice", "Concat", "Cast", "Add", "Sub", "Mul", "Div", "Squeeze",
    "Unsqueeze", "Size", "Reshape",
)  # fmt: skip


@rule("fold-shape", *_SHAPE_OPS)
def fold_shape(node: ir.Node, _context: Context) -> Outcome:
    """Shape arithmetic whose every entry is a known number -> a constant."""
    output = node.outputs[0]
    if output.is_graph_output() or output.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    dims = rank(output)
    entries = entries_of(output)
    if entries is None or dims is None or dims > 1 or not output.uses():
        return None
    numbers = [entry for entry in entries if isinstance(entry, int)]
    if len(numbers) != len(entries) or (dims == 0 and len(numbers) != 1):
        return None
    array = np.asarray(numbers, output.dtype.numpy()).reshape([-1] * dims)
    return Replacement((), ((output, constant(array, output.name or "shape")),))


@rule("reuse-shape", "Concat")
def reuse_shape(node: ir.Node, _context: Context) -> Outcome:
    """Concat of shape entries that is the whole Shape of a value -> that Shape."""
    output = node.outputs[0]
    entries = entries_of(output) if rank(output) == 1 else None
    if entries is None or output.is_graph_output():
        return None
    seen: list[ir.Value | None] = list(node.inputs)
    for _ in range(8):
        for value in seen:
            maker = made_by(value, "Shape", like=node)
            if maker is not None and not maker.attributes and entries_of(value) == entries:
                return bypass(node, value)
        seen = [
            value
            for made in seen
            if made is not None and (producer := made.producer()) is not None
            for value in producer.inputs
        ]
    return None


def _target(data: ir.Value, wanted: list[Entry]) -> list[int] | None:
    """A constant Reshape target that gives the shape `wanted`, or None.

    A size known only at run time is copied (0) where the input has it at that position;
    one more may be inferred (-1).
    """
    have = shape_entries(data)
    target: list[int] = []
    for axis, entry in enumerate(wanted):
        if isinstance(entry, int):
            if entry < 0:
                return None
            target.append(entry)
        elif have is not None and axis < len(have) and have[axis] == entry:
            target.append(0)
        else:
            target.append(-1)
    if 0 in (e for e in wanted if isinstance(e, int)) or target.count(-1) > 1:
        return None
    return target


@rule("constant-reshape", "Reshape")
def constant_reshape(node: ir.Node, _context: Context) -> Outcome:
    """Reshape(x, computed target) -> Reshape(x, constant with 0 and -1).

    Declines when two sizes are unknown and neither is copied from the input.
    """
    data, shape = node.inputs[0], node.inputs[1]
    if data is None or shape is None or const_tensor(shape) is not None:
        return None
    entries = entries_of(shape)
    if entries is None or (attribute(node, "allowzero", 0) and 0 in entries):
        return None
    target = _with_markers(data, entries)
    if target is None:
        return None
    return replace_with(node, ir.node("Reshape", [data, ints(target, f"{node.name}_shape")]))


def _with_markers(data: ir.Value, entries: list[Entry]) -> list[int] | None:
    """As `_target`, for entries that may themselves be 0 or -1."""
    have = shape_entries(data)
    target: list[int] = []
    for axis, entry in enumerate(entries):
        if isinstance(entry, int):
            target.append(entry)
        elif have is not None and axis < len(have) and have[axis] == entry:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


@rule("merge-reshapes", *RESHAPES)
def merge_reshapes(node: ir.Node, _context: Context) -> Outcome:
    """Reshape, Flatten, Squeeze, Unsqueeze in a row -> one Reshape, or nothing at all.

    Declines when the final shape cannot be written as a constant target.
    """
    inner = made_by(node.inputs[0], *RESHAPES, like=node)
    data = inner.inputs[0] if inner is not None else None
    wanted = shape_entries(node.outputs[0])
    if inner is None or data is None or wanted is None:
        return None
    if not (cannot_fail(inner) and cannot_fail(node)):
        return None
    have = shape_entries(data)
    if have == wanted:
        return bypass(node, data)
    target = _target(data, wanted)
    if target is None and is_op(node, "Reshape"):
        given = const_ints(node.inputs[1])
        target = given if given is not None and 0 not in given else None
    if target is None:
        return None
    return replace_with(node, ir.node("Reshape", [data, ints(target, f"{node.name}_shape")]))


def cannot_fail(node: ir.Node) -> bool:
    """Return True if a reshaping node cannot fail: an invalid one must not become a Reshape."""
    if node.op_type == "Squeeze":
        if not has_axes(node):
            return static_shape(node.inputs[0]) is not None
        return all(static_dim(node.inputs[0], axis) == 1 for axis in axes_of(node) or [0])
    if attribute(node, "allowzero", 0):
        target = const_ints(node.inputs[1])
        return target is not None and 0 not in target
    return True


@rule("flatten-reshape", "Reshape")
def reshape_to_flatten(node: ir.Node, _context: Context) -> Outcome:
    """Reshape(x, [0, -1]) -> Flatten(x, axis 1): the form that Gemm fusions know."""
    if const_ints(node.inputs[1]) != [0, -1] or attribute(node, "allowzero", 0):
        return None
    if not rank(node.inputs[0]):
        return None
    return replace_with(node, ir.node("Flatten", [node.inputs[0]], {"axis": 1}))


@rule("remove-squeeze", "Squeeze", "Unsqueeze")
def cancel_squeeze(node: ir.Node, _context: Context) -> Outcome:
    """Squeeze(Unsqueeze(x, a), a) -> x, and the reverse, without knowing the shape."""
    inverse = "Unsqueeze" if node.op_type == "Squeeze" else "Squeeze"
    inner = made_by(node.inputs[0], inverse, like=node)
    if inner is None or not has_axes(inner) or not has_axes(node):
        return None
    outer_axes, inner_axes = axes_of(node), axes_of(inner)
    if outer_axes is None or outer_axes != inner_axes:
        return None
    if any(axis < 0 for axis in outer_axes) and len(outer_axes) > 1:
        return None
    return bypass(node, inner.inputs[0])


@rule("remove-expand", "Expand")
def remove_dynamic_expand(node: ir.Node, _context: Context) -> Outcome:
    """Expand(x, computed s) -> x where every s is 1 or the size that x has."""
    entries = entries_of(node.inputs[1])
    data = node.inputs[0]
    if entries is None or data is None or const_tensor(node.inputs[1]) is not None:
        return None
    have = shape_entries(data)
    if have is None or not any(isinstance(entry, Dim) for entry in entries):
        return None
    if len(entries) > len(have):
        return None
    tail = have[len(have) - len(entries) :]
    if any(want not in (1, own) for want, own in zip(entries, tail, strict=True)):
        return None
    return bypass(node, data)


@rule("expand-before-broadcast", "Add", "Sub", "Mul", "Div", "Where", "Equal", "Less", "Greater")
def drop_expand(node: ir.Node, _context: Context) -> Outcome:
    """f(Expand(x, s), y) -> f(x, y) where y already has every size that Expand gives.

    Declines unless the shapes of y and of the result are certainly the same.
    """
    wanted = shape_entries(node.outputs[0])
    for port, value in enumerate(node.inputs):
        expand = made_by(value, "Expand", like=node)
        if expand is None or wanted is None:
            continue
        others = [v for i, v in enumerate(node.inputs) if i != port]
        if not any(shape_entries(v) == wanted for v in others):
            continue
        inputs = list(node.inputs)
        inputs[port] = expand.inputs[0]
        if (rank(expand.inputs[0]) or 99) > len(wanted):
            continue
        return replace_with(node, ir.Node("", node.op_type, inputs, node.attributes.values()))
    return None


RULES = (
    fold_shape,
    reuse_shape,
    constant_reshape,
    merge_reshapes,
    cancel_squeeze,
    remove_dynamic_expand,
    drop_expand,
    reshape_to_flatten,
)
