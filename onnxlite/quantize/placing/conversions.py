"""What it costs to take a value from float to integers and back, measured by its shape.

Between two convolutions that is more than QuantizeLinear or DequantizeLinear: ONNX Runtime's
float convolutions work on blocks of channels and its integer ones on channels last, so an
image is also reordered, once in float and once in integers. Both are measured as the
transposition between channels first and channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from onnxlite.analysis.kernels import profile
from onnxlite.graph import add_initializer
from onnxlite.ops import ShapeOf
from onnxlite.quantize.placing.labelling import Conversion
from onnxlite.quantize.qtypes import QType

_OPSET, _IR_VERSION = 17, 8
#: Seconds for the runs of one shape.
_BUDGET_S = 0.02
_LAST = (0, 2, 3, 1)


def conversions(
    values: Sequence[ir.Value], shape_of: ShapeOf, qtype: QType, *, threads: int | None
) -> Mapping[ir.Value, Conversion]:
    """Measure the conversions of `values`; one without a known shape costs nothing."""
    measured: dict[tuple[int, ...], Conversion] = {}
    found = {}
    for value in values:
        shape = shape_of(value)
        if shape is None:
            found[value] = Conversion(0.0, 0.0)
            continue
        # Only of images does the order of elements change; of others their number counts.
        key = shape if len(shape) == len(_LAST) else (prod(shape),)
        if key not in measured:
            measured[key] = _measure(key, qtype, threads)
        found[value] = measured[key]
    return found


def _measure(shape: tuple[int, ...], qtype: QType, threads: int | None) -> Conversion:
    if not prod(shape):
        return Conversion(0.0, 0.0)
    rng = np.random.default_rng(0)
    feed = {
        "real": rng.standard_normal(shape).astype(np.float32),
        "integers": rng.integers(0, 100, shape).astype(qtype.dtype),
    }
    kernels = profile([_model(shape, qtype)], feed, threads=threads, budget_s=_BUDGET_S)[0]
    seconds = {node.name: spent for node, spent in kernels.seconds().items()}
    reorders = seconds.get("reorder_real", 0.0) + seconds.get("reorder_integers", 0.0)
    return Conversion(
        seconds.get("quantize", 0.0) + reorders, seconds.get("dequantize", 0.0) + reorders
    )


def _model(shape: tuple[int, ...], qtype: QType) -> ir.Model:
    """All four operations, each with an input and an output of the model's own."""
    integer = ir.DataType.from_numpy(qtype.dtype)
    real, integers = (
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        for name, dtype in (("real", ir.DataType.FLOAT), ("integers", integer))
    )
    graph = ir.Graph(
        [real, integers],
        [],
        nodes=[],
        opset_imports={"": _OPSET},
        name="conversions",
    )
    constants = [
        add_initializer(graph, "scale", np.array(0.02, np.float32)),
        add_initializer(graph, "zero", np.array(0, qtype.dtype)),
    ]
    nodes = [
        ir.node("QuantizeLinear", [real, *constants], name="quantize"),
        ir.node("DequantizeLinear", [integers, *constants], name="dequantize"),
    ]
    if len(shape) == len(_LAST):
        nodes += [
            ir.node("Transpose", [real], {"perm": list(_LAST)}, name="reorder_real"),
            ir.node("Transpose", [integers], {"perm": list(_LAST)}, name="reorder_integers"),
        ]
    types = {"quantize": integer, "reorder_integers": integer}
    for node in nodes:
        output = node.outputs[0]
        output.name = f"{node.name}_output"
        output.type = ir.TensorType(types.get(node.name or "", ir.DataType.FLOAT))
        graph.append(node)
        graph.outputs.append(output)
    return ir.Model(graph, ir_version=_IR_VERSION)
