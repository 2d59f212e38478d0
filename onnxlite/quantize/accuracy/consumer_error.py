"""Consumer error: how the error of rounding a value arrives at the layers that read it.

    e_k = dequantize(quantize(x, range k)) - x,      |consumer(e_k)|^2 / |consumer(x)|^2

measured in ONNX Runtime on whole tensors of a few samples, for all ranges in one run: a copy
of the value per range lies along the first axis, with a scale per position. A layer with
weights adds up errors that agree and averages those that do not, and weighs channels
differently: the squared error of the value itself does not show that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.calibrate.effective_range import effective_range
from onnxlite.graph import rank
from onnxlite.model import clone
from onnxlite.quantize.core.plan import QuantPlan, weight_port
from onnxlite.quantize.core.qtypes import QParams
from onnxlite.runtime import Session
from onnxlite.samples import Feed

Array64 = NDArray[np.float64]


def consumer_errors(
    plan: QuantPlan,
    candidates: Mapping[str, Sequence[QParams]],
    feeds: Sequence[Feed],
    *,
    threads: int | None,
) -> dict[str, Array64]:
    """Measure the relative squared error at the consumers of each value, per candidate.

    Args:
        plan: consumers that stay float do not count.
        candidates: 8-bit parameters to compare, by name of the value.
        feeds: of one sample each.
        threads: of ONNX Runtime.

    Returns:
        float64[candidates] by name; the sum over consumers. A value whose first axis is not
        known to count samples is left out.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model.
    """
    probe = clone(plan.model)
    chosen = {node.name for node in plan.placement.nodes}
    values = {value.name: value for value in probe.graph.inputs}
    values.update({value.name: value for node in probe.graph for value in node.outputs})
    batches = {str(v.shape[0]) for v in probe.graph.inputs if v.shape is not None and len(v.shape)}
    effective = {name: effective_range(values[name]) for name in candidates}
    meter = _ConsumerMeter(probe)
    measured: dict[str, list[str]] = {}
    # In the order in which ONNX Runtime then measures each value when it is made, see `taps`.
    for name, params in reversed(list(candidates.items())):
        value = values[name]
        if not _counts_samples(value, batches):
            continue
        consumers = [use.node for use in value.uses() if use.node.name in chosen]
        if (part := effective[name]) is not None:
            value = part.write(meter.end)
        measured[name] = meter.measure(value, params, consumers)
    if not measured:
        return {}
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(meter.outputs)
    session = Session(probe, threads=threads, fuse_qdq=False)
    power: dict[str, Array64] = {}
    for feed in feeds:
        for output, array in session.run(feed).items():
            power[output] = power.get(output, 0.0) + array.astype(np.float64)
    return {
        name: np.sum([_relative(power[output]) for output in outputs], axis=0)
        for name, outputs in measured.items()
    }


def _counts_samples(value: ir.Value, batches: set[str]) -> bool:
    """Tell whether the first axis of a value is the batch axis, with one sample at a time."""
    if value.shape is None or not len(value.shape) or str(value.shape[0]) not in batches:
        return False
    return not isinstance(value.shape[0], int) or value.shape[0] == 1


def _relative(power: Array64) -> Array64:
    """Errors over the signal, which comes first; zeros where there is no signal."""
    errors: Array64 = power[1:] / power[0] if power[0] > 0 else np.zeros(len(power) - 1)
    return errors


class _ConsumerMeter:
    """Appends nodes to a model that measure the error of candidates at consumers.

    Attributes:
        end: where the nodes go.
        outputs: float32[1 + candidates] each: power of the signal, then of the errors.
    """

    def __init__(self, model: ir.Model) -> None:
        self.end = GraphBuilder(model, naming="none").end()
        self.outputs: list[ir.Value] = []

    def measure(
        self, value: ir.Value, params: Sequence[QParams], consumers: Sequence[ir.Node]
    ) -> list[str]:
        """Append the nodes for one value; returns the names of their outputs."""
        dims = rank(value)
        assert dims is not None
        copies = np.array([len(params)] + [1] * (dims - 1), np.int64)
        scale = self._constant(np.stack([one.scale for one in params]))
        zero = self._constant(np.stack([one.zero_point for one in params]))
        repeated = self._op("Expand", [value, self._constant(copies)])
        integers = self._op("QuantizeLinear", [repeated, scale, zero], {"axis": 0})
        rounded = self._op("DequantizeLinear", [integers, scale, zero], {"axis": 0})
        error = self._op("Sub", [rounded, value])
        both = self._op("Concat", [value, error], {"axis": 0})
        # Consumers without weights see the error as it is, all of them the same.
        arrived = [self._consumed(node, both) for node in consumers]
        known = {id(output): (output, size) for output, size in arrived if size is not None}
        return [
            self._power(output, size) for output, size in list(known.values()) or [(both, dims)]
        ]

    def _consumed(self, node: ir.Node, data: ir.Value) -> tuple[ir.Value, int | None]:
        """Compute a layer without its bias on `data`; returns the output and its rank."""
        port = weight_port(node)
        if port is None:
            return data, rank(node.inputs[0])
        weight = node.inputs[port]
        assert weight is not None
        return self._op(node.op_type, [data, weight], node.attributes), rank(node.outputs[0])

    def _power(self, value: ir.Value, dims: int) -> str:
        axes = self._constant(np.arange(1, dims, dtype=np.int64))
        square = self._op("Mul", [value, value])
        # Without axes a reduction would take all of them.
        total = self._op("ReduceSum", [square, axes], {"keepdims": 0}) if dims > 1 else square
        total.shape = ir.Shape([None])
        total.type = ir.TensorType(ir.DataType.FLOAT)
        self.outputs.append(total)
        assert total.name is not None
        return total.name

    def _op(
        self, op_type: str, inputs: list[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        return self.end.op(op_type, inputs, attributes, name=f"consumer_{op_type}")

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        return self.end.constant("consumer_constant", array)
