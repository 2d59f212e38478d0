"""What else a model holds, biases above all, in float16: next to weights of few bits it weighs.

    b: float32[n]  ->  Cast(b: float16[n])

Rounding to 11 bits is noise of less than -66 dB, far below that of weights of 6 bits or fewer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxlite.graph import Names, add_initializer, const_array
from onnxlite.quantize.weight_only.streaming import is_mapped

#: Smaller tensors weigh less than the node they would need.
_LEAST_NUMBERS = 64
#: Rounding may cost so much of the largest number.
_LEAST_LOSS = 2.0**-11


def store_in_float16(graph: ir.Graph, names: Names, kept: set[ir.Value]) -> int:
    """Store the float32 initializers of a graph in float16 where that loses next to nothing.

    Args:
        graph: changed in place.
        names: all that are taken; new ones join.
        kept: initializers to leave alone.

    Returns:
        How many there are.
    """
    count = 0
    first = next(iter(graph))
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if value in kept or tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        if tensor.size < _LEAST_NUMBERS or is_mapped(tensor) or not value.uses():
            continue
        if value.is_graph_input() or value.is_graph_output():
            continue
        array = const_array(value)
        assert array is not None
        largest = np.abs(array).max()
        if not largest < np.finfo(np.float16).max:
            continue
        half = array.astype(np.float16)
        if np.abs(half.astype(np.float32) - array).max() > largest * _LEAST_LOSS:
            continue
        stored = add_initializer(graph, names.fresh("h"), half)
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        graph.insert_before(first, cast)
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
        count += 1
    return count
