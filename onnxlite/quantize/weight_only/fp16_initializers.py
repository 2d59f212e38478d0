"""Store initializers other than packed weights, mostly biases, in float16.

    b: float32[n]  ->  Cast(b: float16[n])

Rounding to 11 bits adds noise below -66 dB, much less than weights of 6 bits or fewer.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxlite.builder import GraphBuilder
from onnxlite.graph import const_array
from onnxlite.quantize.weight_only.streaming import is_mapped

#: Tensors with fewer bytes take less space than the Cast node.
_MIN_SIZE = 64
#: Largest rounding error over the largest magnitude.
_MAX_LOSS = 2.0**-11


def store_in_float16(builder: GraphBuilder, candidates: Collection[ir.Value]) -> int:
    """Rewrite in place: float32 initializers to float16 if their rounding error is small.

    Args:
        builder: builder of the model.
        candidates: initializers that may be converted.

    Returns:
        Number of initializers stored in float16.
    """
    count = 0
    for graph in builder.model.graphs():
        at = builder.before(next(iter(graph)))
        for name, value in list(graph.initializers.items()):
            half = _in_float16(value) if value in candidates else None
            if half is None:
                continue
            stored = at.initializer("h", half)
            cast = at.op("Cast", [stored], {"to": int(ir.DataType.FLOAT)}, name="cast")
            value.replace_all_uses_with(cast)
            del graph.initializers[name]
            cast.name = name
            count += 1
    return count


def _in_float16(value: ir.Value) -> np.ndarray | None:
    """Round a constant to float16; None if it stays float32."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _MIN_SIZE:
        return None
    if is_mapped(tensor) or not value.uses():
        return None
    if value.is_graph_input() or value.is_graph_output():
        return None
    array = const_array(value)
    assert array is not None
    largest = np.abs(array).max()
    if not largest < np.finfo(np.float16).max:
        return None
    half = array.astype(np.float16)
    loss = np.abs(half.astype(np.float32) - array).max()
    return None if loss > largest * _MAX_LOSS else half
