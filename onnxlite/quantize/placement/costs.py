"""Costs of nodes and conversions, from profiles of a model in float and on integers.

Between two convolutions a conversion is more than QuantizeLinear or DequantizeLinear: ONNX
Runtime's float convolutions work on blocks of channels and its integer ones on channels last, so
an image is also reordered, once in float and once in integers. Both are measured as the
transposition between channels first and channels last.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxlite.builder import GraphBuilder
from onnxlite.cache import Cache, CacheKey, NumberTable
from onnxlite.graph import is_op
from onnxlite.inputs import Feed
from onnxlite.machine import machine
from onnxlite.ops import ShapeOf
from onnxlite.quantize.core.plan import Placement, QuantPlan, weight_port
from onnxlite.quantize.core.qtypes import QType
from onnxlite.quantize.placement.partition import Conversion, Costs
from onnxlite.timing.layer_times import LayerTimes
from onnxlite.timing.profiler import Kernels, profile

_OPSET, _IR_VERSION = 17, 8
#: Seconds for the runs of one shape.
_CONVERSION_S = 0.02
_NHWC = (0, 2, 3, 1)


def measured_costs(
    plan: QuantPlan,
    quantized: ir.Model,
    feed: Feed,
    shape_of: ShapeOf,
    *,
    threads: int | None,
    budget_s: float,
) -> Costs:
    """Profile both forms in turn, and measure the conversions.

    Args:
        plan: of the float form.
        quantized: the same with the whole plan on integers; nodes keep their names.
        feed: of both.
        shape_of: of the values of the float form on that feed.
        threads: of ONNX Runtime.
        budget_s: seconds for the runs.
    """
    model, placement, qtype = plan.model, plan.placement, plan.target.activation
    in_float, on_integers = profile([model, quantized], feed, threads=threads, budget_s=budget_s)
    return Costs(
        _float_seconds(model, placement, in_float, shape_of, threads),
        _integer_seconds(placement, on_integers),
        conversion_costs(placement.values, shape_of, qtype, threads=threads),
    )


def _float_seconds(
    model: ir.Model,
    placement: Placement,
    kernels: Kernels,
    shape_of: ShapeOf,
    threads: int | None,
) -> Mapping[ir.Node, float]:
    """Read the times of nodes in float, each with the activation that it would absorb.

    An operator without a kernel of its own went into another one, which has its time. A layer
    that was fused beyond recognition is measured alone.
    """
    seconds = kernels.seconds()
    absorbing = {activation.inputs[0]: activation for activation in placement.absorbed}
    found, alone = {}, LayerTimes(threads=threads)
    for node in placement.nodes:
        parts = [node, *(absorbing[v] for v in node.outputs if v in absorbing)]
        spent = sum(seconds.get(part, 0.0) for part in parts)
        if not spent and weight_port(node) is not None:
            spent = alone.time(model, node, shape_of, {}) or 0.0
        found[node] = spent
    alone.keep()
    return found


def _integer_seconds(placement: Placement, kernels: Kernels) -> Mapping[ir.Node, float]:
    """Read the times of nodes on integers.

    A Q or DQ between integer nodes means that a node has no integer kernel; its time counts as
    the node's.
    """
    mine = {node.name: node for node in placement.nodes}
    found: dict[ir.Node, float] = defaultdict(float)
    for node, spent in kernels.seconds().items():
        if node.name in mine:
            found[mine[node.name]] += spent
        elif is_op(node, "QuantizeLinear"):
            producer = None if node.inputs[0] is None else node.inputs[0].producer()
            if producer is not None and producer.name in mine:
                found[mine[producer.name]] += spent
        elif is_op(node, "DequantizeLinear"):
            readers = {use.node.name for use in node.outputs[0].uses()}
            if readers and readers <= mine.keys() and not node.outputs[0].is_graph_output():
                found[mine[min(readers, key=str)]] += spent
    return {node: found.get(node, 0.0) for node in placement.nodes}


def conversion_costs(
    values: Sequence[ir.Value],
    shape_of: ShapeOf,
    qtype: QType,
    *,
    threads: int | None,
    cache: Cache | None = None,
) -> Mapping[ir.Value, Conversion]:
    """Costs of the conversions of `values`; one without a known shape costs nothing.

    Shapes are measured at powers of two, once per machine, and scaled by the number of elements.

    Args:
        values: of the float form.
        shape_of: their shapes.
        qtype: of the integers.
        threads: of ONNX Runtime.
        cache: where times are kept between processes; None takes the user's.
    """
    inputs = {
        "machine": str(machine()),
        "threads": str(threads),
        "type": str(np.dtype(qtype.dtype)),
    }
    key = CacheKey("conversion-times", (__name__, "onnxlite.timing"), inputs)
    table = NumberTable(cache or Cache(), key)
    found = {}
    for value in values:
        shape = shape_of(value)
        if shape is None or not prod(shape):
            found[value] = Conversion(0.0, 0.0)
            continue
        # Only of images does the order of elements change; of others their number counts.
        form = shape if len(shape) == len(_NHWC) else (prod(shape),)
        power = tuple(1 << round(math.log2(dim)) for dim in form)
        names = [f"{power} {way}" for way in ("to integers", "to float")]
        if any(name not in table for name in names):
            measured = _measure(power, qtype, threads)
            for name, seconds in zip(names, measured, strict=True):
                table[name] = seconds
        scale = prod(form) / prod(power)
        found[value] = Conversion(*(table[name] * scale for name in names))
    table.flush()
    return found


def _measure(shape: tuple[int, ...], qtype: QType, threads: int | None) -> tuple[float, float]:
    """Seconds to take a value of a shape to integers, and to float."""
    rng = np.random.default_rng(0)
    feed = {
        "real": rng.standard_normal(shape).astype(np.float32),
        "integers": rng.integers(0, 100, shape).astype(qtype.dtype),
    }
    kernels = profile(
        [_conversion_model(shape, qtype)], feed, threads=threads, budget_s=_CONVERSION_S
    )[0]
    seconds = {node.name: spent for node, spent in kernels.seconds().items()}
    reorders = seconds.get("reorder_real", 0.0) + seconds.get("reorder_integers", 0.0)
    return seconds.get("quantize", 0.0) + reorders, seconds.get("dequantize", 0.0) + reorders


def _conversion_model(shape: tuple[int, ...], qtype: QType) -> ir.Model:
    """Make a model of all four operations, each with an input and an output of its own."""
    integer = ir.DataType.from_numpy(qtype.dtype)
    inputs = {
        name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        for name, dtype in (("real", ir.DataType.FLOAT), ("integers", integer))
    }
    graph = ir.Graph(
        list(inputs.values()), [], nodes=[], opset_imports={"": _OPSET}, name="conversions"
    )
    model = ir.Model(graph, ir_version=_IR_VERSION)
    end = GraphBuilder(model).end()
    scale = end.constant("scale", np.array(0.02, np.float32))
    zero = end.constant("zero", np.array(0, qtype.dtype))

    def add(name: str, op_type: str, source: str, dtype: ir.DataType, **attributes: Any) -> None:
        parameters = [] if attributes else [scale, zero]
        output = end.op(op_type, [inputs[source], *parameters], attributes, name=name)
        output.type = ir.TensorType(dtype)
        graph.outputs.append(output)

    add("quantize", "QuantizeLinear", "real", integer)
    add("dequantize", "DequantizeLinear", "integers", ir.DataType.FLOAT)
    if len(shape) == len(_NHWC):
        add("reorder_real", "Transpose", "real", ir.DataType.FLOAT, perm=list(_NHWC))
        add("reorder_integers", "Transpose", "integers", integer, perm=list(_NHWC))
    return model
