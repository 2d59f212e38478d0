"""ONNX operators in torch: one small function per operator, in one table."""

from __future__ import annotations

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS
from onnxlite.tune.operators import (
    control,
    conv,
    layout,
    normalisation,
    pointwise,
    product,
    quantization,
    recurrent,
    reduction,
)
from onnxlite.tune.operators.call import Call, OperatorFunction, Operators
from onnxlite.tune.operators.fake import DOMAIN, FAKE, fake_quantize, fuse_pairs

#: Every operator of the standard domain that can be computed in torch.
OPERATORS: Operators = {
    **control.OPERATORS,
    **conv.OPERATORS,
    **layout.OPERATORS,
    **normalisation.OPERATORS,
    **pointwise.OPERATORS,
    **product.OPERATORS,
    **quantization.OPERATORS,
    **recurrent.OPERATORS,
    **reduction.OPERATORS,
}


def function_of(node: ir.Node) -> OperatorFunction | None:
    """Return the function that computes `node` in torch, None if there is none."""
    if node.domain == DOMAIN and node.op_type == FAKE:
        return fake_quantize
    return OPERATORS.get(node.op_type) if node.domain in STANDARD_DOMAINS else None


__all__ = ["OPERATORS", "Call", "function_of", "fuse_pairs"]
