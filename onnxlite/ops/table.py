"""The rows of every kind of operator, put together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS
from onnxlite.ops.layout import LAYOUT
from onnxlite.ops.linear import LINEAR
from onnxlite.ops.pointwise import POINTWISE
from onnxlite.ops.spec import OpSpec

#: Every operator onnxlite knows, by name in the standard domain.
OPS: Mapping[str, OpSpec] = MappingProxyType(
    {spec.op_type: spec for spec in (*LINEAR, *POINTWISE, *LAYOUT)}
)

_UNKNOWN = OpSpec(op_type="")


def spec_of(node: ir.Node) -> OpSpec:
    """The table's row for a node; an unknown or custom operator gets an empty one."""
    if node.domain not in STANDARD_DOMAINS:
        return _UNKNOWN
    return OPS.get(node.op_type, _UNKNOWN)
