"""Cross-layer equalization: scale channels up that use little of their tensor's range.

A tensor has one scale for all its channels, so that a channel with small values is rounded
coarsely. Where the model allows it (`channel_rescaling.py`) a channel is multiplied by
s >= 1 in the layer that makes it, and the layers that read it divide. The factor is the one
with the least noise that follows from both roundings,

    A / s^2 + B s^2    with    A = d_x^2 sum w^2,    B = mean(x^2) sum_m d_w[m]^2

for a channel x with step d_x, read with weights w of steps d_w; so s^4 = A / B, as far as the
tensor's range does not grow and no activation's upper bound is reached. Layers with a scale for
each input channel (depthwise ones) have B = 0. After Nagel et al. 2019 (sec. 4.1), who equalise
the ranges of weights instead.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.calibrate import Range
from onnxlite.calibrate.reductions import ChannelStatistics, collect_channel_statistics
from onnxlite.fidelity import Reference, is_float, sqnr_db
from onnxlite.graph import const_array
from onnxlite.holdout import split_feeds
from onnxlite.model import clone
from onnxlite.ops import output_bounds, spec_of, tracked_axes
from onnxlite.quantize.accuracy.channel_rescaling import (
    ScalableChannels,
    find_scalable_channels,
    rescale,
)
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.qtypes import QType
from onnxlite.quantize.core.quick_qdq import quick_qdq
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.targets import Target
from onnxlite.records import Skipped
from onnxlite.repair.regression import HOLD_OUT
from onnxlite.runtime import Session
from onnxlite.samples import Samples

Array64 = NDArray[np.float64]

#: Feeds that the statistics of channels are taken from.
_MAX_FEEDS = 64
#: The noise must fall by this fraction; smaller gains may be chance.
_MIN_GAIN = 0.1
#: Largest factor of a channel: one that is small on these samples may be large on others.
_MAX_FACTOR = 8.0
#: Channels may fill this fraction of an activation's bound, and these fractions of their tensor's
#: range; the better one of the latter is found on samples held out.
_BOUND_MARGIN, _RANGE_MARGINS = 0.9, (0.9, 1.0)
#: Largest difference of the rescaled model's outputs, as a fraction of their largest number.
_TOLERANCE = 1e-3


def equalize(
    plan: QuantPlan,
    samples: Samples,
    ranges: Mapping[str, Range],
    *,
    threads: int | None = None,
) -> int | Skipped:
    """Scale channels of a float model up in place, so that integers represent them better.

    Factors come from some of the samples; on those held out the quantized model must be closer to
    the float one than without them.

    Args:
        plan: nodes and values of its model stay, weights and biases change.
        samples: unlabelled inputs; the first 64 feeds are used.
        ranges: of the plan's values, by name.
        threads: of ONNX Runtime.

    Returns:
        The number of channels that were scaled, or the reason against it.
    """
    model = plan.model
    split = split_feeds(Samples(list(islice(samples, _MAX_FEEDS)), samples.inputs), HOLD_OUT)
    channels = channel_map(model, feeds=[next(iter(split.fitted))])
    scalable = find_scalable_channels(model, channels)
    axes = _channel_axes(plan, channels, scalable)
    if not axes:
        return _skipped("no-channel", "no channel may be multiplied by a number")
    statistics = collect_channel_statistics(model, axes, split.fitted, threads=threads)
    original = clone(model)
    reference = Reference(original, split.held_out, threads=threads)
    scaling = _ScaledRanges(plan, channels, statistics, ranges)
    best, least, faults = None, np.inf, []
    for margin in _RANGE_MARGINS:
        factor = _Factors(scaling, scalable, margin).per_unit()
        if (factor == 1).all():
            continue
        undo = rescale(model, scalable.constants, factor)
        if fault := _fault(reference, model, threads):
            faults.append(fault)
        elif (after := _noise(reference, scaling, model, factor)) < least:
            best, least = factor, after
        undo()
    if best is None:
        return _skipped("no-channel", faults[0] if faults else "no channel would gain accuracy")
    before = _noise(reference, scaling, original, np.ones(len(channels.root)))
    if not least < before * (1 - _MIN_GAIN):
        return _skipped(
            "no-gain",
            f"scaled channels give {sqnr_db(1, least):.1f} dB and the original ones "
            f"{sqnr_db(1, before):.1f} dB on {len(split.held_out)} feeds held out",
        )
    rescale(model, scalable.constants, best)
    return int((best != 1).sum())


def _skipped(code: str, message: str) -> Skipped:
    return Skipped("equalize", "", code, message)


def _channel_axes(
    plan: QuantPlan, channels: ChannelMap, scalable: ScalableChannels
) -> dict[str, int]:
    """The channel axis of each value, by name, that has channels which may be scaled."""
    axes = {}
    for value in (*plan.placement.values, *scalable.clips):
        ids = channels.values.get(value)
        tracked = () if ids is None else tracked_axes(ids)
        if value.name and len(tracked) == 1 and scalable.units[channels.root[ids]].any():
            axes[value.name] = tracked[0]
    return axes


@dataclass(frozen=True)
class _ScaledRanges:
    """Ranges of values after their channels are scaled, without another run.

    Attributes:
        plan: of the float model.
        channels: its channel units.
        statistics: of the channels of values, by name.
        ranges: of all values before.
    """

    plan: QuantPlan
    channels: ChannelMap
    statistics: Mapping[str, ChannelStatistics]
    ranges: Mapping[str, Range]

    def after(self, factor: Array64) -> dict[str, Range]:
        """Return the ranges after scaling by a factor of each unit, float64[units]."""
        found = dict(self.ranges)
        for value in self.plan.placement.values:
            if (seen := self.statistics.get(value.name or "")) is not None:
                scale = factor[self.units(value)]
                low, high = (seen.low * scale).min(), (seen.high * scale).max()
                found[value.name or ""] = Range(float(low), float(high))
        return found

    def units(self, value: ir.Value) -> NDArray[Any]:
        """Return the unit of each channel of a value, int[channels]."""
        units: NDArray[Any] = self.channels.root[self.channels.values[value]].reshape(-1)
        return units


def _noise(
    reference: Reference, scaling: _ScaledRanges, scaled: ir.Model, factor: Array64
) -> float:
    """Noise over signal at the outputs of a scaled model that is quickly quantized."""
    plan = scaling.plan.on(scaled)
    params = activation_params(plan, scaling.after(factor))
    return reference.errors(quick_qdq(plan, params)).noise_ratio


def _fault(reference: Reference, scaled: ir.Model, threads: int | None) -> str | None:
    """Compare the float model after scaling with the one before; None if they are the same."""
    got = Session(scaled, threads=threads).run(reference.feeds[0])
    for name, expected in reference.outputs[0].items():
        if not is_float(expected) or not expected.size:
            continue
        wrong = float(np.abs(expected - got[name]).max())
        if not wrong <= _TOLERANCE * float(np.abs(expected).max()):
            return f"output {name!r} of the model with scaled channels differs by {wrong:.3g}"
    return None


@dataclass(frozen=True)
class _Factors:
    """Factors of channel units with the least noise.

    Attributes:
        scaling: ranges and statistics of the float model.
        scalable: the units that may be scaled.
        margin: fraction of their tensor's range that channels may fill.
    """

    scaling: _ScaledRanges
    scalable: ScalableChannels
    margin: float

    def per_unit(self) -> Array64:
        """Return float64[units], 1 for units that stay."""
        room = self._room()
        activation, weight = self._noise()
        with np.errstate(divide="ignore", invalid="ignore"):
            best = np.where(weight > 0, (activation / weight) ** 0.25, _MAX_FACTOR)
        best = np.where(activation > 0, best, 1.0)
        factor = np.clip(np.minimum(best, room), 1.0, _MAX_FACTOR)
        return np.where(self.scalable.units, factor, 1.0)

    def _room(self) -> Array64:
        """Largest factor of each unit within ranges and bounds."""
        room = np.full(len(self.scaling.channels.root), _MAX_FACTOR)
        for value in self.scaling.plan.placement.values:
            if (seen := self.scaling.statistics.get(value.name or "")) is not None:
                low, high = float(seen.low.min()), float(seen.high.max())
                _limit(room, self.scaling.units(value), seen, self.margin * low, self.margin * high)
        for value in self.scalable.clips:
            if (seen := self.scaling.statistics.get(value.name or "")) is not None:
                producer = value.producer()
                bounds = None if producer is None else output_bounds(producer)
                assert bounds is not None
                high = bounds[1] * _BOUND_MARGIN
                _limit(room, self.scaling.units(value), seen, -np.inf, high)
                room[self.scaling.units(value)[seen.high >= high]] = 1.0
        return room

    def _noise(self) -> tuple[Array64, Array64]:
        """A and B of the module's equation for each unit, float64[units] both."""
        activation, weight = np.zeros((2, len(self.scaling.channels.root)))
        chosen, target = set(self.scaling.plan.placement.nodes), self.scaling.plan.target
        for value in self.scaling.plan.placement.values:
            if (seen := self.scaling.statistics.get(value.name or "")) is not None:
                units, step = self.scaling.units(value), _step(target.activation, seen)
                for power, noise in _consumers(value, len(units), chosen, target):
                    np.add.at(activation, units, step**2 * power)
                    np.add.at(weight, units, seen.square / seen.count * noise)
        return activation, weight


def _limit(
    room: Array64, units: NDArray[Any], seen: ChannelStatistics, low: float, high: float
) -> None:
    """Lower the largest factors of units in place so that channels stay in `low` to `high`."""
    for bound, extreme in ((low, np.minimum(seen.low, 0)), (high, np.maximum(seen.high, 0))):
        full = np.full(extreme.shape, _MAX_FACTOR)
        factor = np.divide(bound, extreme, out=full, where=extreme != 0)
        np.minimum.at(room, units, np.maximum(factor, 1.0))


def _step(qtype: QType, seen: ChannelStatistics) -> float:
    """The step of a tensor's integers."""
    low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
    if qtype.symmetric:
        return max(-low, high) / qtype.qmax
    return (high - low) / (qtype.qmax - qtype.qmin)


def _consumers(
    value: ir.Value, size: int, chosen: Container[ir.Node], target: Target
) -> Iterator[tuple[Array64, Array64]]:
    """Yield `sum w^2` and `sum d_w^2` per channel for each integer layer that reads a value."""
    for node, port in value.uses():
        spec = spec_of(node)
        if node not in chosen or port != 0 or spec.quant is None or spec.quant.weight is None:
            continue
        weight = spec.quant.weight
        array = const_array(node.inputs[weight])
        if array is None or spec.output_axis is None or spec.summed_axes is None:
            continue
        out, summed = spec.output_axis(node, weight), spec.summed_axes(node, weight)
        power = array.astype(np.float64) ** 2
        others = tuple(axis for axis in range(array.ndim) if axis != out)
        steps = power.max(axis=others) / target.weight_type(node).qmax ** 2
        inner = [axis for axis in summed if array.shape[axis] == size and axis != out]
        if inner:
            total = power.sum(axis=tuple(a for a in range(array.ndim) if a != inner[0]))
            repeats = power.size / size / steps.size
            yield total, np.full(size, float(steps.sum()) * repeats)
        elif out is not None and array.shape[out] == size:
            # Depthwise: a weight scale for each channel.
            yield power.sum(axis=others), np.zeros(size)
