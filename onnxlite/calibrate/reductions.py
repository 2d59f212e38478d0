"""Statistics per channel and largest magnitudes, reduced inside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.calibrate.taps import TapModel
from onnxlite.graph import rank
from onnxlite.records import Progress, no_progress
from onnxlite.samples import Samples

_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSumSquare")


class ChannelStatistics(msgspec.Struct, frozen=True):
    """Statistics of one value, per channel.

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

    def merge(self, other: ChannelStatistics) -> ChannelStatistics:
        """Return the statistics over both sets of feeds."""
        return ChannelStatistics(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.square + other.square,
            self.count + other.count,
        )


def collect_channel_statistics(
    model: ir.Model, axes: Mapping[str, int], samples: Samples, *, threads: int | None = None
) -> dict[str, ChannelStatistics]:
    """Run all samples once and return the statistics of each value's channels.

    Args:
        model: left as it is; its values' ranks are known.
        axes: the channel axis of every value asked for, by the value's name.
        samples: unlabelled inputs.
        threads: of ONNX Runtime.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model.
    """
    taps = TapModel(model, axes, effective=True)
    outputs: dict[str, list[str]] = {}
    for name, value in taps:
        reduced = [axis for axis in range(rank(value) or 0) if axis != axes[name]]
        measured = [
            *(taps.reduce(op_type, value, reduced) for op_type in _REDUCTIONS),
            taps.op("Size", [value], f"{name}_size"),
        ]
        outputs[name] = [taps.output(one) for one in measured]
    session = taps.session(threads)
    found: dict[str, ChannelStatistics] = {}
    for feed in samples:
        made = session.run(feed)
        for name in axes:
            low, high, square = (
                np.asarray(made[output], np.float64) for output in outputs[name][:3]
            )
            count = int(made[outputs[name][3]]) // max(1, low.size)
            seen = ChannelStatistics(low, high, square, count)
            found[name] = found[name].merge(seen) if name in found else seen
    return found


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
    taps = TapModel(model, names)
    outputs = {
        name: taps.output(
            taps.reduce("ReduceMax", taps.op("Abs", [value], f"{name}_abs", like=value)), 0
        )
        for name, value in taps
    }
    if not outputs:
        return {}
    session = taps.session(threads)
    found = dict.fromkeys(outputs, 0.0)
    total = samples.count() if progress is not no_progress else 0
    for index, feed in enumerate(samples):
        made = session.run(feed)
        for name, output in outputs.items():
            now = float(made[output])
            # NaN, once seen, stays: it is greater than nothing and less than nothing.
            found[name] = now if not now <= found[name] else found[name]
        progress("magnitudes", index + 1, total)
    return found
