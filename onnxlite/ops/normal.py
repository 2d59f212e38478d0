"""Operators that normalise, and where they keep their scale."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS, const_tensor, is_op
from onnxlite.ops.spec import OpSpec

NORMALIZATIONS = tuple(
    OpSpec(op_type=op_type, gain=1)
    for op_type in (
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "RMSNormalization",
    )
)

#: Ports of scale and shift of what normalises the last axes and multiplies element by element.
_AFFINE: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {"LayerNormalization": (1, 2), "RMSNormalization": (1, None)}
)


def last_axis_affine(node: ir.Node) -> tuple[int, ...] | None:
    """Ports of the constants that scale (and shift) `node`'s output along its last axis.

    Returns:
        `(scale, shift)` or `(scale,)` if it has no shift; None if the node ends in no such
        step, or its constants do not lie along the last axis alone.
    """
    if is_op(node, "Mul"):
        ports: tuple[int, ...] = tuple(p for p in (0, 1) if const_tensor(node.inputs[p]))[:1]
    elif node.domain in STANDARD_DOMAINS and node.op_type in _AFFINE:
        scale, shift = _AFFINE[node.op_type]
        has_shift = shift is not None and shift < len(node.inputs) and node.inputs[shift]
        ports = (scale, shift) if has_shift and shift is not None else (scale,)
    else:
        return None
    tensors = [const_tensor(node.inputs[port]) for port in ports]
    along_last = all(tensor is not None and len(tensor.shape) == 1 for tensor in tensors)
    return ports if ports and along_last else None
