"""Taps: a model that outputs measurements of its inner values instead of its own outputs.

Minimum and maximum are computed inside ONNX Runtime, by reduction nodes appended to the
model, and so is a sample of bounded size, by Slice nodes: no intermediate tensor is copied
out. A bound that the producer guarantees (zero after a Relu) is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.calibrate.effective_range import effective_range, lower_bound
from onnxlite.inputs import InputSpec, input_specs
from onnxlite.model import clone
from onnxlite.runtime import Session

#: Most elements taken from a value of one sample; all of a smaller one.
_PER_SAMPLE = 512
#: Elements taken from one feed of a value whose shape leaves open how they lie by samples.
_PER_FEED = 4096
#: Axes of an image: samples, channels, rows, columns.
_IMAGE = 4
#: Steps through rows and columns, odd so that they are not those of strides before; at least so
#: many steps on each side, and so many times the elements that are taken.
_STEPS, _MIN_STEPS, _MIN_CHOICE = (7, 5, 3), 4, 4
#: A prime above any number of elements taken, for positions that are spread evenly.
_SPREAD = 2_654_435_761
#: Since this opset the axes of reductions are an input.
_AXES_ARE_INPUTS = 18


class TapModel:
    """A copy of a model to which measurements of its values are appended.

    Args:
        model: left as it is.
        names: of values of its main graph.
        effective: measure the effective range of a value where it has one.

    Attributes:
        values: the named values of the copy, in the order in which taps are to be appended:
            ONNX Runtime takes the last nodes first, so each value is measured when it is made,
            and need not be kept until all others are.
    """

    def __init__(self, model: ir.Model, names: Iterable[str], *, effective: bool = False) -> None:
        self._model = clone(model)
        self._place = GraphBuilder(self._model, naming="none").end()
        graph = self._model.graph
        known = {value.name: value for value in graph.inputs}
        known.update({value.name: value for node in graph for value in node.outputs})
        self.values = {name: known[name] for name in reversed(list(dict.fromkeys(names)))}
        # Found before anything is appended: a new reader needs the whole range.
        self._effective = {
            name: effective_range(value) if effective else None
            for name, value in self.values.items()
        }
        self._outputs: list[ir.Value] = []

    def __iter__(self) -> Iterator[tuple[str, ir.Value]]:
        """Yield names and what is to be measured of each value, appending its nodes."""
        for name, value in self.values.items():
            part = self._effective[name]
            yield name, value if part is None else part.write(self._place)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        like: ir.Value | None = None,
    ) -> ir.Value:
        """Append a node; its output has the type of `like`, or int64."""
        value = self._place.op(op_type, inputs, attributes, name=name)
        value.type = ir.TensorType(ir.DataType.INT64) if like is None else like.type
        return value

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int] | None = None) -> ir.Value:
        """Append a reduction over some axes, or to a scalar; over no axes it is the value."""
        if axes is not None and not axes:
            return value
        inputs, attributes = [value], {"keepdims": 0}
        if axes is not None and self._model.opset_imports.get("", 1) >= _AXES_ARE_INPUTS:
            inputs.append(self.constant(list(axes)))
        elif axes is not None:
            attributes["axes"] = list(axes)  # type: ignore[assignment]
        return self.op(op_type, inputs, f"{value.name}_{op_type}", attributes, like=value)

    def constant(self, numbers: Sequence[int] | NDArray[np.int64]) -> ir.Value:
        """Return a constant int64[n]; equal ones are shared."""
        return self._place.constant("tap_constant", np.asarray(numbers, np.int64))

    def output(self, value: ir.Value, rank: int | None = None) -> str:
        """Make a value an output of the model and return its name."""
        if rank is not None:
            value.shape = ir.Shape([None] * rank)
        self._outputs.append(value)
        assert value.name is not None
        return value.name

    def finish(self) -> ir.Model:
        """Return the model, whose outputs are the taps alone (its own if there are none)."""
        if self._outputs:
            self._model.graph.outputs.clear()
            self._model.graph.outputs.extend(self._outputs)
        return self._model

    def session(self, threads: int | None) -> Session:
        """Open a session that runs the model."""
        return Session(self.finish(), threads=threads)


@dataclass(frozen=True)
class Tap:
    """Names of the outputs that measure one value; None where nothing is measured.

    Attributes:
        low: the smallest number of each sample, or of the feed where the shape does not show the
            samples; None where `known_low` is guaranteed.
        high: the largest number, likewise.
        sample: some of the elements.
        known_low: lower bound that the producer guarantees.
    """

    low: str | None
    high: str
    sample: str | None
    known_low: float


def tap_summaries(
    model: ir.Model, names: Iterable[str], inputs: Sequence[InputSpec] = (), *, sample: bool
) -> tuple[ir.Model, dict[str, Tap]]:
    """Make a copy of `model` whose outputs are summaries of the named float32 values.

    Args:
        model: of opset 10 or newer where a `sample` is asked for, with shapes.
        names: of the values.
        inputs: with the batch axis of each; those of the model by default.
        sample: whether some elements are taken.
    """
    wanted = list(dict.fromkeys(names))
    taps = TapModel(model, wanted, effective=True)
    specs = inputs or input_specs(model)
    batches = {str(s.batch) for s in specs if s.shape and s.batch_axis is not None}
    found: dict[str, Tap] = {}
    for name, value in taps:
        bound = lower_bound(taps.values[name])
        # Behind an activation nothing else needs an image in its plain layout.
        pooled = bound is not None
        axes = _axes_of_a_sample(taps.values[name], batches)
        rank = 0 if axes is None else 1
        found[name] = Tap(
            low=None if pooled else taps.output(taps.reduce("ReduceMin", value, axes), rank),
            high=taps.output(_largest(taps, value, axes, pooled=pooled), rank),
            sample=_sampled(taps, value, batches, pooled=pooled) if sample else None,
            known_low=0.0 if bound is None else bound,
        )
    return taps.finish(), {name: found[name] for name in wanted}


def _axes_of_a_sample(value: ir.Value, batches: set[str]) -> list[int] | None:
    """Axes of a value that run within one sample; None where its shape does not show them.

    Samples are counted by the first axis, or by another one of the same symbolic size. Whether
    they are is checked when the sizes are known.
    """
    if value.shape is None or not len(value.shape):
        return None
    found = [axis for axis, dim in enumerate(value.shape) if str(dim) in batches]
    symbolic = [axis for axis in found if not isinstance(value.shape[axis], int)]
    if not (found and found[0] == 0) and len(symbolic) != 1:
        return None
    samples = 0 if found[0] == 0 else symbolic[0]
    return [axis for axis in range(len(value.shape)) if axis != samples]


def _largest(taps: TapModel, value: ir.Value, axes: list[int] | None, *, pooled: bool) -> ir.Value:
    """Append the largest number of a value, over some axes or all.

    An image is `pooled` first: kernels for that exist in the layout of ONNX Runtime's
    convolutions, and to bring the whole image out of it costs as much as a third of the model.
    """
    data = value
    if pooled and value.shape is not None and len(value.shape) == _IMAGE:
        data = taps.op("GlobalMaxPool", [value], f"{value.name}_peaks", like=value)
    return taps.reduce("ReduceMax", data, axes)


def _sampled(taps: TapModel, value: ir.Value, batches: set[str], *, pooled: bool) -> str:
    """Append a choice of elements, spread evenly, and return the output's name.

    Of an image only every few rows and columns are looked at where it is `pooled`.
    """
    shape, name = _shape_of_a_sample(value, batches), f"{value.name}_sample"
    if pooled and shape is not None and (stride := _lattice(shape)) is not None:
        shape = shape[:1] + tuple(-(-side // stride) for side in shape[1:])
        attributes = {"kernel_shape": [1, 1], "strides": [stride, stride]}
        value = taps.op("MaxPool", [value], f"{value.name}_lattice", attributes, like=value)
    if shape is None:
        return taps.output(_spread(taps, value, name), 1)
    size = math.prod(shape)
    flat = taps.op("Reshape", [value, taps.constant([-1, size])], f"{value.name}_flat", like=value)
    step = _step(size, shape[-1])
    # From the middle of a step on: the first column is the edge of an image.
    positions = (step // 2, size, 1, step)  # start, end, axis, step
    inputs = [flat, *(taps.constant([one]) for one in positions)]
    return taps.output(taps.op("Slice", inputs, name, like=value), 2)


def _spread(taps: TapModel, value: ir.Value, name: str) -> ir.Value:
    """Append a choice of elements of a value whose shape is open."""
    flat = taps.op("Reshape", [value, taps.constant([-1])], f"{value.name}_flat", like=value)
    count = taps.op("Shape", [flat], f"{value.name}_size")
    spread = taps.constant(np.arange(_PER_FEED, dtype=np.int64) * _SPREAD)
    # Of no elements none are taken, of any others as many as ever; Mod refuses to divide by 0.
    end = taps.op("Mul", [count, taps.constant([_PER_FEED])], f"{value.name}_end")
    start = taps.constant([0])
    some = taps.op("Slice", [spread, start, end], f"{value.name}_some")
    divisor = taps.op("Slice", [count, start, count], f"{value.name}_divisor")
    index = taps.op("Mod", [some, divisor], f"{value.name}_index")
    return taps.op("Gather", [flat, index], name, {"axis": 0}, like=value)


def _shape_of_a_sample(value: ir.Value, batches: set[str]) -> tuple[int, ...] | None:
    """Shape without the first axis, where that is known to count samples."""
    shape = value.shape
    if shape is None or len(shape) < 2 or str(shape[0]) not in batches:
        return None
    sizes = tuple(dim for dim in shape[1:] if isinstance(dim, int) and dim > 0)
    return sizes if len(sizes) == len(shape) - 1 else None


def _lattice(shape: tuple[int, ...]) -> int | None:
    """Choose a step through rows and columns of an image; its shape is of one sample.

    The widest that leaves some rows and columns, and several times what is taken; None where
    no step does.
    """
    if len(shape) != _IMAGE - 1:
        return None
    channels, *sides = shape
    for step in _STEPS:
        left = channels * math.prod(-(-side // step) for side in sides)
        if min(sides) >= _MIN_STEPS * step and left >= _MIN_CHOICE * _PER_SAMPLE:
            return step
    return None


def _step(size: int, row: int) -> int:
    """Choose a step between elements: prime to a `row`, so that no column is preferred.

    A Slice takes half the time of a Gather of as many elements.
    """
    step = -(-size // _PER_SAMPLE)
    while math.gcd(step, row) != 1:
        step += 1
    return step
