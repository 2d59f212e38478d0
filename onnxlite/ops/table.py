"""The rows of every kind of operator, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS
from onnxlite.ops import (
    channels_attention,
    channels_conv,
    channels_layout,
    channels_normal,
    channels_pointwise,
    channels_product,
    channels_recurrent,
    channels_sizes,
)
from onnxlite.ops.layout import LAYOUT
from onnxlite.ops.linear import LINEAR
from onnxlite.ops.normal import NORMALIZATIONS
from onnxlite.ops.pointwise import POINTWISE
from onnxlite.ops.spec import OpSpec
from onnxlite.ops.tracker import ChannelRule

_CHANNELS: Mapping[str, ChannelRule] = {
    **channels_attention.RULES,
    **channels_conv.RULES,
    **channels_layout.RULES,
    **channels_normal.RULES,
    **channels_pointwise.RULES,
    **channels_product.RULES,
    **channels_recurrent.RULES,
    **channels_sizes.RULES,
}


def _rows() -> Iterator[OpSpec]:
    """Every row with its channel rule; operators that have no more than that rule, too."""
    rows = {spec.op_type: spec for spec in (*LINEAR, *POINTWISE, *LAYOUT, *NORMALIZATIONS)}
    for name in dict.fromkeys((*rows, *_CHANNELS)):
        yield replace(rows.get(name, OpSpec(op_type=name)), channels=_CHANNELS.get(name))


#: Every operator onnxlite knows, by name in the standard domain.
OPS: Mapping[str, OpSpec] = MappingProxyType({spec.op_type: spec for spec in _rows()})

_UNKNOWN = OpSpec(op_type="")


def spec_of(node: ir.Node) -> OpSpec:
    """The table's row for a node; an unknown or custom operator gets an empty one."""
    if node.domain not in STANDARD_DOMAINS:
        return _UNKNOWN
    return OPS.get(node.op_type, _UNKNOWN)
