"""Small integer vectors followed symbolically: what shape arithmetic really computes.

Exporters write `x.reshape(x.shape[0], -1)` as Shape, Gather, Unsqueeze and Concat. Each
entry of such a vector is a number, or a `Dim`: a size that is only known at run time, but
known to be *the same* as another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxlite.graph import attribute, is_op
from onnxlite.simplify.patterns import const_ints
from onnxlite.simplify.rules.cleanup import slice_bounds

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
