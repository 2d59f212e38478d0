"""What rounding a value in one way or another does to the layers that read it.

    e_k = dequantize(quantize(x, range k)) - x,      |reader(e_k)|^2 / |reader(x)|^2

measured in ONNX Runtime on whole tensors of a few samples, for all ranges in one run: a copy
of the value per range lies along the first axis, with a scale per position. A layer with
weights adds up errors that agree and averages those that do not, and listens to some channels
more than to others: the squared error of the value itself knows nothing of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.calibrate.effective_range import effective_range
from onnxlite.graph import add_initializer, value_names
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.quantize.core.plan import QuantPlan
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
    """The relative squared error at the readers of each value, one number per candidate.

    Args:
        plan: readers that stay float do not count.
        candidates: 8-bit parameters to compare, by name of the value.
        feeds: of one sample each.
        threads: of ONNX Runtime.

    Returns:
        float64[candidates] by name; the sum over readers. A value whose first axis is not
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
    writer = _Writer(probe)
    end = GraphBuilder(probe, names=writer.taken, naming="none").end()
    readings: dict[str, list[str]] = {}
    # In the order in which ONNX Runtime then measures each value when it is made, see `taps`.
    for name, params in reversed(list(candidates.items())):
        value = values[name]
        if value.shape is None or not len(value.shape) or str(value.shape[0]) not in batches:
            continue
        if isinstance(value.shape[0], int) and value.shape[0] != 1:
            continue
        uses = [use for use in value.uses() if use.node.name in chosen]
        if (part := effective[name]) is not None:
            value = part.write(end)
        readings[name] = writer.readings(value, params, [use.node for use in uses])
    if not readings:
        return {}
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(writer.outputs)
    session = Session(probe, threads=threads, fuse_qdq=False)
    power: dict[str, Array64] = {}
    for feed in feeds:
        for output, array in session.run(feed).items():
            power[output] = power.get(output, 0.0) + array.astype(np.float64)
    return {
        name: np.sum([_relative(power[output]) for output in outputs], axis=0)
        for name, outputs in readings.items()
    }


def _relative(power: Array64) -> Array64:
    """Errors over the signal, which comes first; nothing where there is no signal."""
    errors: Array64 = power[1:] / power[0] if power[0] > 0 else np.zeros(len(power) - 1)
    return errors


class _Writer:
    """Appends the measuring nodes to one model."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self.taken = value_names(model)
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        self.outputs: list[ir.Value] = []

    def readings(
        self, value: ir.Value, params: Sequence[QParams], readers: Sequence[ir.Node]
    ) -> list[str]:
        """Names of the outputs float32[1 + candidates]: power of the signal and of errors."""
        assert value.shape is not None
        rank = len(value.shape)
        copies = np.array([len(params)] + [1] * (rank - 1), np.int64)
        scale = self._constant(np.stack([one.scale for one in params]))
        zero = self._constant(np.stack([one.zero_point for one in params]))
        repeated = self._append("Expand", [value, self._constant(copies)])
        integers = self._append("QuantizeLinear", [repeated, scale, zero], {"axis": 0})
        rounded = self._append("DequantizeLinear", [integers, scale, zero], {"axis": 0})
        error = self._append("Sub", [rounded, value])
        both = self._append("Concat", [value, error], {"axis": 0})
        behind = [self._through(node, both) for node in readers]
        # Readers without weights see the error as it is, all of them the same.
        distinct = {id(output): (output, size) for output, size in behind if size is not None}
        return [
            self._power(output, size) for output, size in list(distinct.values()) or [(both, rank)]
        ]

    def _through(self, node: ir.Node, data: ir.Value) -> tuple[ir.Value, int | None]:
        """What a layer makes of `data` without its bias, and the rank of that."""
        rule, output = spec_of(node).quant, node.outputs[0]
        if rule is None or rule.weight is None:
            rank = (
                None
                if node.inputs[0] is None or node.inputs[0].shape is None
                else len(node.inputs[0].shape)
            )
            return data, rank
        weight = node.inputs[rule.weight]
        assert weight is not None
        rank = None if output.shape is None else len(output.shape)
        return self._append(node.op_type, [data, weight], node.attributes), rank

    def _power(self, value: ir.Value, rank: int) -> str:
        axes = self._constant(np.arange(1, rank, dtype=np.int64))
        square = self._append("Mul", [value, value])
        # Without axes a reduction would take all of them.
        total = self._append("ReduceSum", [square, axes], {"keepdims": 0}) if rank > 1 else square
        total.shape = ir.Shape([None])
        total.type = ir.TensorType(ir.DataType.FLOAT)
        self.outputs.append(total)
        assert total.name is not None
        return total.name

    def _append(
        self, op_type: str, inputs: list[ir.Value], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        name = self.taken.fresh(f"reader_{op_type}")
        node = ir.node(op_type, inputs, dict(attributes or {}), name=name)
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]

    def _constant(self, array: NDArray[np.generic]) -> ir.Value:
        key = (array.dtype.name, array.tobytes())
        if key not in self._constants:
            name = self.taken.fresh("reader_constant")
            self._constants[key] = add_initializer(self._graph, name, array)
        return self._constants[key]
