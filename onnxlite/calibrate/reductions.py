"""Ranges per channel and largest magnitudes, reduced inside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.calibrate.effective_range import effective_range
from onnxlite.graph import Names, add_initializer, rank, value_names
from onnxlite.model import clone
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session
from onnxlite.samples import Samples

#: Since this opset the axes of reductions are an input.
_AXES_ARE_INPUTS = 18
_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSumSquare")


class ChannelStats(msgspec.Struct, frozen=True):
    """Of one value, per channel.

    Attributes:
        low: float64[channels], the smallest number seen.
        high: float64[channels], the largest.
        square: float64[channels], the sum of squares.
        count: numbers seen per channel.
    """

    low: Any
    high: Any
    square: Any
    count: int

    def merge(self, other: ChannelStats) -> ChannelStats:
        """The statistics of both; shards may be merged."""
        return ChannelStats(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.square + other.square,
            self.count + other.count,
        )


def collect_by_channel(
    model: ir.Model, axes: Mapping[str, int], samples: Samples, *, threads: int | None = None
) -> dict[str, ChannelStats]:
    """Run the samples once.

    Args:
        model: left as it is; its values' ranks are known.
        axes: the channel axis of every value asked for, by the value's name.
        samples: unlabelled inputs.
        threads: of ONNX Runtime.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model.
    """
    copy = clone(model)
    values = {value.name: value for value in copy.graph.inputs}
    values.update({value.name: value for node in copy.graph for value in node.outputs})
    effective = {name: effective_range(values[name]) for name in axes}
    taken = value_names(copy)
    taps: dict[str, list[str]] = {}
    outputs: list[ir.Value] = []
    # In the order in which ONNX Runtime then measures each value when it is made, see `taps`.
    for name, axis in reversed(list(axes.items())):
        value, part = values[name], effective[name]
        if part is not None:
            value = part.write(copy.graph, taken)
        reduced = [a for a in range(rank(value) or 0) if a != axis]
        nodes = [_reduction(copy, op, value, reduced, taken) for op in _REDUCTIONS]
        size = ir.node("Size", [value])
        size.outputs[0].name = taken.fresh(f"{name}_size")
        size.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        nodes.append(size)
        for node in nodes:
            copy.graph.append(node)
            outputs.append(node.outputs[0])
        taps[name] = [node.outputs[0].name or "" for node in nodes]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    session = Session(copy, threads=threads)
    stats: dict[str, ChannelStats] = {}
    for feed in samples:
        got = session.run(feed)
        for name in axes:
            tapped = taps[name]
            low, high, square = (np.asarray(got[tap], np.float64) for tap in tapped[:3])
            seen = ChannelStats(low, high, square, int(got[tapped[3]]) // max(1, low.size))
            stats[name] = stats[name].merge(seen) if name in stats else seen
    return stats


def _reduction(
    model: ir.Model, op_type: str, value: ir.Value, axes: list[int], taken: Names
) -> ir.Node:
    name = taken.fresh(f"{value.name}_{op_type}")
    if model.opset_imports.get("", 1) >= _AXES_ARE_INPUTS:
        given = add_initializer(model.graph, taken.fresh(f"{name}_axes"), np.array(axes, np.int64))
        node = ir.node(op_type, [value, given], {"keepdims": 0})
    else:
        node = ir.node(op_type, [value], {"axes": axes, "keepdims": 0})
    node.outputs[0].name = name
    node.outputs[0].type = value.type
    return node


def collect_magnitudes(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Run all samples once and return `max |v|` of each named value; it may be inf or NaN.

    Args:
        model: values are named as in its main graph.
        names: float32 values that nodes of the main graph compute, or inputs.
        samples: some unlabelled inputs.
        threads: intra-operator threads; None takes all cores.
        progress: called after every feed.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model.
    """
    copy = clone(model)
    taken = value_names(copy)
    values = {value.name: value for value in copy.graph.inputs}
    values.update({value.name: value for node in copy.graph for value in node.outputs})
    taps: dict[str, str] = {}
    outputs: list[ir.Value] = []
    # In the order in which ONNX Runtime then measures each value when it is made, see `taps`.
    for name in reversed(list(dict.fromkeys(names))):
        value = values[name]
        for op_type, attributes in (("Abs", {}), ("ReduceMax", {"keepdims": 0})):
            node = ir.node(op_type, [value], attributes, name=f"{name}_{op_type}_tap")
            node.outputs[0].name = taken.fresh(node.name or op_type)
            node.outputs[0].type = value.type
            copy.graph.append(node)
            value = node.outputs[0]
        value.shape = ir.Shape(())
        outputs.append(value)
        taps[name] = value.name or ""
    if not outputs:
        return {}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    session = Session(copy, threads=threads)
    found = dict.fromkeys(taps, 0.0)
    total = samples.count() if progress is not no_progress else 0
    for index, feed in enumerate(samples):
        result = session.run(feed)
        for name, tap in taps.items():
            now = float(result[tap])
            # NaN, once seen, stays: it is greater than nothing and less than nothing.
            found[name] = now if not now <= found[name] else found[name]
        progress("magnitudes", index + 1, total)
    return found
