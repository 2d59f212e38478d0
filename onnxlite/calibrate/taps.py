"""A model that outputs small summaries of its inner values instead of its own outputs.

Minimum and maximum are computed inside ONNX Runtime, by reduction nodes appended to the
model, and so is a sample of bounded size, by Slice nodes: no intermediate tensor is copied
out. A bound that the producer guarantees (zero after a Relu) is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.calibrate.effective_range import effective_range, lower_bound
from onnxlite.graph import add_initializer, value_names
from onnxlite.model import clone

#: Most elements taken from a value of one sample; all of a smaller one.
_PER_SAMPLE = 512
#: Elements taken from one feed of a value whose shape leaves open how they lie by samples.
_PER_FEED = 4096
#: Axes of an image: samples, channels, rows, columns.
_IMAGE = 4
#: Steps through rows and columns, odd so that they are not those of strides before; at least so
#: many steps on each side, and so many times the elements that are taken.
_STEPS, _LEAST_STEPS, _LEAST_CHOICE = (7, 5, 3), 4, 4
#: A prime above any number of elements taken, for positions that are spread evenly.
_SPREAD = 2_654_435_761


@dataclass(frozen=True)
class Tap:
    """Names of the outputs that tell of one value; None where nothing is measured.

    Attributes:
        low: the smallest number; None where `known_low` is guaranteed.
        high: the largest number.
        sample: some of the elements.
        known_low: lower bound that the producer guarantees.
    """

    low: str | None
    high: str
    sample: str | None
    known_low: float


def tap_summaries(
    model: ir.Model, names: Iterable[str], *, sample: bool
) -> tuple[ir.Model, dict[str, Tap]]:
    """A copy of `model` whose outputs are the summaries of the named float32 values.

    Args:
        model: of opset 10 or newer where a `sample` is asked for, with shapes.
        names: of the values.
        sample: whether some elements are taken.
    """
    copy = clone(model)
    writer = _Writer(copy)
    values = {value.name: value for value in copy.graph.inputs}
    values.update({value.name: value for node in copy.graph for value in node.outputs})
    effective = {name: effective_range(values[name]) for name in names}
    taps: dict[str, Tap] = {}
    # ONNX Runtime takes the last nodes first: so each value is measured when it is made, and need
    # not be held until all others are.
    for name in reversed(effective):
        value, part = values[name], effective[name]
        bound = lower_bound(value)
        if part is not None:
            value = part.write(copy.graph, writer.taken)
        taps[name] = Tap(
            low=writer.reduced(value, "ReduceMin") if bound is None else None,
            high=writer.reduced(value, "ReduceMax", pooled=bound is not None),
            sample=writer.sampled(value, pooled=bound is not None) if sample else None,
            known_low=0.0 if bound is None else bound,
        )
    if writer.outputs:
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(writer.outputs)
    return copy, {name: taps[name] for name in effective}


class _Writer:
    """Appends nodes to one model; positions and shapes of equal value are shared."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self.taken = value_names(model)
        self._constants: dict[bytes, ir.Value] = {}
        self._batches = {
            str(value.shape[0])
            for value in model.graph.inputs
            if value.shape is not None and len(value.shape) > 0
        }
        self.outputs: list[ir.Value] = []

    def reduced(self, value: ir.Value, op_type: str, *, pooled: bool = False) -> str:
        """Append a reduction to one number; returns the output's name.

        Where nothing else needs an image in its plain layout its largest numbers are `pooled`:
        kernels for that exist in the layout of ONNX Runtime's convolutions, and to bring the
        whole image out of it costs as much as a third of the model.
        """
        suffix = "min" if op_type == "ReduceMin" else "max"
        name, data = self._name(value, suffix), value
        if pooled and value.shape is not None and len(value.shape) == _IMAGE:
            data = self._append("GlobalMaxPool", [value], self._name(value, "peaks"), value)
        self._append(op_type, [data], name, value, {"keepdims": 0})
        return self._output(name, value, 0)

    def sampled(self, value: ir.Value, *, pooled: bool = False) -> str:
        """Append a choice of elements, spread evenly; returns the output's name.

        Of an image only every few rows and columns are looked at where it is `pooled`.
        """
        shape = self._shape_of_a_sample(value)
        name = self._name(value, "sample")
        if pooled and shape is not None and (stride := _lattice(shape)) is not None:
            shape = shape[:1] + tuple(-(-side // stride) for side in shape[1:])
            strides: dict[str, int | list[int]] = {
                "kernel_shape": [1, 1],
                "strides": [stride, stride],
            }
            points = self._name(value, "lattice")
            value = self._append("MaxPool", [value], points, value, strides)
        if shape is not None:
            size = math.prod(shape)
            flat = self._flat(value, np.array([-1, size], np.int64))
            step = _step(size, shape[-1])
            # From the middle of a step on: the first column is the border of an image.
            positions = (step // 2, size, 1, step)  # start, end, axis, step
            constants = [self._constant(np.array([one], np.int64)) for one in positions]
            self._append("Slice", [flat, *constants], name, value)
            return self._output(name, value, 2)
        flat = self._flat(value, np.array([-1], np.int64))
        count = self._append("Shape", [flat], self._name(value, "size"), None)
        spread = self._constant(np.arange(_PER_FEED, dtype=np.int64) * _SPREAD)
        # Of no elements none are taken, of any others as many as ever; Mod refuses to divide by 0.
        most = self._constant(np.array([_PER_FEED], np.int64))
        end = self._append("Mul", [count, most], self._name(value, "end"), None)
        start = self._constant(np.array([0], np.int64))
        some = self._append("Slice", [spread, start, end], self._name(value, "some"), None)
        divisor = self._append("Slice", [count, start, count], self._name(value, "divisor"), None)
        index = self._append("Mod", [some, divisor], self._name(value, "index"), None)
        self._append("Gather", [flat, index], name, value, {"axis": 0})
        return self._output(name, value, 1)

    def _flat(self, value: ir.Value, shape: NDArray[np.int64]) -> ir.Value:
        inputs = [value, self._constant(shape)]
        return self._append("Reshape", inputs, self._name(value, "flat"), value)

    def _shape_of_a_sample(self, value: ir.Value) -> tuple[int, ...] | None:
        """Without the first axis, where that is known to count samples."""
        shape = value.shape
        if shape is None or len(shape) < 2 or str(shape[0]) not in self._batches:
            return None
        sizes = tuple(dim for dim in shape[1:] if isinstance(dim, int) and dim > 0)
        return sizes if len(sizes) == len(shape) - 1 else None

    def _append(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        like: ir.Value | None,
        attributes: dict[str, int | list[int]] | None = None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or {}, name=name)
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64) if like is None else like.type
        self._graph.append(node)
        return node.outputs[0]

    def _output(self, name: str, value: ir.Value, rank: int) -> str:
        output = self._graph[-1].outputs[0]
        output.shape = ir.Shape([None] * rank)
        self.outputs.append(output)
        return name

    def _constant(self, array: NDArray[np.int64]) -> ir.Value:
        key = array.tobytes()
        if key not in self._constants:
            name = self.taken.fresh("tap_constant")
            self._constants[key] = add_initializer(self._graph, name, array)
        return self._constants[key]

    def _name(self, value: ir.Value, suffix: str) -> str:
        return self.taken.fresh(f"{value.name}_{suffix}")


def _lattice(shape: tuple[int, ...]) -> int | None:
    """A step through rows and columns of an image; its shape is of one sample.

    The widest that leaves some rows and columns, and several times what is taken; None where
    no step does.
    """
    if len(shape) != _IMAGE - 1:
        return None
    channels, *sides = shape
    for step in _STEPS:
        left = channels * math.prod(-(-side // step) for side in sides)
        if min(sides) >= _LEAST_STEPS * step and left >= _LEAST_CHOICE * _PER_SAMPLE:
            return step
    return None


def _step(size: int, row: int) -> int:
    """Between the elements taken of `size`: prime to a `row`, so that no column is preferred.

    A Slice takes half the time of a Gather of as many elements.
    """
    step = -(-size // _PER_SAMPLE)
    while math.gcd(step, row) != 1:
        step += 1
    return step
