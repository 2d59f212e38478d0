"""Operators that normalise, and where they keep their scale."""

from __future__ import annotations

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
