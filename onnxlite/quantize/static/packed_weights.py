"""Packed weights: int8 constants that need fewer than 8 bits, for a smaller file at equal speed.

    w: int8 -> DequantizeLinear    =>    words: uint8 -> BitShift, ..., Cast -> DequantizeLinear

ONNX Runtime folds the new nodes when it loads the model, and fuses what it fused before.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from onnxlite.builder import GraphBuilder
from onnxlite.graph import const_array, is_op
from onnxlite.packing import Bits, weight_type
from onnxlite.quantize.weight_only.codes import Blocks, coding
from onnxlite.quantize.weight_only.decode_graph import (
    Decoder,
    PackedTensor,
    node_bytes,
    packed_nbytes,
)


def pack_weights(model: ir.Model, bits: Bits) -> int:
    """Rewrite in place: pack int8 constants in front of DQ nodes that fit into `bits` bits.

    Constants that would not get smaller stay as they are.

    Returns:
        Number of packed constants.
    """
    kind = weight_type(bits)
    decoder = Decoder(GraphBuilder(model, naming="none"))
    count = 0
    for node in list(model.graph):
        stored = node.inputs[0] if is_op(node, "DequantizeLinear") else None
        integers = const_array(stored)
        if stored is None or integers is None or integers.dtype != np.int8 or integers.ndim < 2:
            continue
        codes = integers.astype(np.int16) + int(kind.middle)
        if codes.min() < 0 or codes.max() >= kind.levels or stored.is_graph_output():
            continue
        blocks = Blocks(integers.shape, integers.shape, ())
        one = coding(kind, np.ones((1,) * integers.ndim, np.float32))
        if packed_nbytes(blocks, one) + node_bytes(kind) >= integers.nbytes:
            continue
        packed = PackedTensor(ir.DataType.INT8, blocks, one, partial(codes.astype, np.uint8))
        name = stored.name or ""
        stored.replace_all_uses_with(decoder.write_integers(packed, f"p{count}"))
        model.graph.initializers.pop(name, None)
        count += 1
    return count
