"""The range of every asked-for value over all samples, in memory that does not grow with them.

Minimum and maximum are computed inside ONNX Runtime, by reduction nodes appended to the
model, so that no intermediate tensor is copied out: what leaves a run is two numbers per
value. A bound that the producer guarantees (zero after a Relu) is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.errors import SamplesError
from onnxlite.graph import describe, fresh_name, value_names
from onnxlite.model import clone
from onnxlite.ops import spec_of
from onnxlite.records import Progress, silent
from onnxlite.runtime import Session
from onnxlite.samples import Samples


class Range(msgspec.Struct, frozen=True):
    """Smallest and largest number seen, as float."""

    low: float
    high: float

    def merge(self, other: Range) -> Range:
        """The range that covers both; merging is exact, so shards may be merged."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def collect_ranges(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, Range]:
    """Run all samples once and return the range of each named value.

    Args:
        model: the float model; values are named as in its main graph.
        names: `float32` values: graph inputs or outputs of nodes.
        samples: the calibration data.
        threads: intra-operator threads; None takes all cores.
        progress: called after every feed.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    probe, taps, known = _instrument(model, dict.fromkeys(names))
    session = Session(probe, threads=threads)
    ranges: dict[str, Range] = {}
    total = samples.count() if progress is not silent else 0
    for index, feed in enumerate(samples):
        outputs = session.run(feed)
        for name, (low_tap, high_tap) in taps.items():
            low = float(outputs[low_tap]) if low_tap else known[name]
            seen = Range(low, float(outputs[high_tap]))
            if not (math.isfinite(seen.low) and math.isfinite(seen.high)):
                raise SamplesError(
                    f"value {name!r} ({_origin(model, name)}) is {seen.high} on a calibration "
                    "sample: check the preprocessing, or the model overflows"
                )
            ranges[name] = ranges[name].merge(seen) if name in ranges else seen
        progress("calibrate", index + 1, total)
    return ranges


def _instrument(
    model: ir.Model, names: Mapping[str, None]
) -> tuple[ir.Model, dict[str, tuple[str | None, str]], dict[str, float]]:
    """A copy of `model` that outputs only the reductions: per value (min or None, max)."""
    copy = clone(model)
    taken = value_names(copy)
    values = {value.name: value for value in copy.graph.inputs}
    values.update({value.name: value for node in copy.graph for value in node.outputs})
    taps: dict[str, tuple[str | None, str]] = {}
    known: dict[str, float] = {}
    outputs: list[ir.Value] = []
    for name in names:
        value = values[name]
        bound = _lower_bound(value)
        low = None
        if bound is None:
            outputs.append(_reduce(copy, value, "ReduceMin", fresh_name(taken, f"{name}_min")))
            low = outputs[-1].name
        else:
            known[name] = bound
        outputs.append(_reduce(copy, value, "ReduceMax", fresh_name(taken, f"{name}_max")))
        high = outputs[-1].name
        assert high is not None
        taps[name] = (low, high)
    if outputs:
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(outputs)
    return copy, taps, known


def _reduce(model: ir.Model, value: ir.Value, op_type: str, name: str) -> ir.Value:
    node = ir.node(op_type, [value], {"keepdims": 0}, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = value.type
    node.outputs[0].shape = ir.Shape(())
    model.graph.append(node)
    return node.outputs[0]


def _lower_bound(value: ir.Value) -> float | None:
    """The finite lower bound that the producing activation guarantees, if any."""
    producer = value.producer()
    output_range = None if producer is None else spec_of(producer).output_range
    if producer is None or output_range is None:
        return None
    bounds = output_range(producer)
    return bounds[0] if bounds is not None and np.isfinite(bounds[0]) else None


def _origin(model: ir.Model, name: str) -> str:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return f"output of {describe(node)}"
    return "model input"
