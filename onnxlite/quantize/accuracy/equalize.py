"""Cross-layer equalization: channels that use little of their tensor's range are scaled up.

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

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.channels import ChannelMap, channel_map
from onnxlite.calibrate import collect_ranges
from onnxlite.calibrate.reductions import ChannelStatistics, collect_channel_statistics
from onnxlite.fidelity import Reference
from onnxlite.graph import const_array
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
from onnxlite.samples import Feed, Samples, input_specs

Array64 = NDArray[np.float64]

_WHAT = "equalize"
#: Feeds that the statistics of channels are taken from.
_FEEDS = 64
#: The noise must fall by this share; less is chance.
_LEAST_GAIN = 0.1
#: What is left of the room up to an activation's bound, for samples that were not seen, and up to
#: the end of a tensor's range: the share that does better on samples held out.
_MARGIN, _MARGINS = 0.9, (0.9, 1.0)
#: No channel is multiplied by more than this: one that hardly ever answers to the samples at
#: hand may do so to others.
_MOST = 8.0
#: Largest difference of the rescaled model's outputs, as a share of their largest number.
_TOLERANCE = 1e-3


def equalize(
    plan: QuantPlan,
    samples: Samples,
    *,
    threads: int | None = None,
) -> int | Skipped:
    """Scale channels of a float model up, in place, so that integers hold them better.

    Factors and ranges come from some of the samples; on the others the quantized model must be
    closer to the float one than without them.

    Args:
        plan: what will be quantized; nodes and values of its model stay, weights and biases
            change.
        samples: unlabelled inputs.
        threads: of ONNX Runtime.

    Returns:
        How many channels were scaled, or why none was.
    """
    model, placement = plan.model, plan.placement
    feeds = list(islice(samples, _FEEDS))
    held_out = set(np.flatnonzero(HOLD_OUT.mask(len(feeds))).tolist()) or set(range(len(feeds)))
    seen = Samples(
        [f for i, f in enumerate(feeds) if i not in held_out] or feeds, input_specs(model)
    )
    channels = channel_map(model, feeds=feeds[:1])
    free = find_scalable_channels(model, channels)
    axes = {
        value.name: tracked_axes(channels.values[value])[0]
        for value in (*placement.values, *free.clips)
        if value.name and value in channels.values and _has_free(value, channels, free)
    }
    if not axes:
        return Skipped(_WHAT, "", "no-channel", "no channel may be multiplied by a number")
    stats = collect_channel_statistics(model, axes, seen, threads=threads)
    checks = [feeds[i] for i in sorted(held_out)]
    plain = clone(model)
    noise = _Noise(plan, seen, Reference(plain, checks, threads=threads), threads)
    best, least, problems = None, np.inf, []
    for margin in _MARGINS:
        factor = _factors(plan, channels, free, stats, margin)
        if (factor == 1).all():
            continue
        undo = rescale(model, free.slots, factor)
        if problem := _difference(plain, model, checks[0], threads):
            problems.append(problem)
        elif (after := noise.of(model)) < least:
            best, least = factor, after
        undo()
    if best is None:
        reason = problems[0] if problems else "no channel would be held better"
        return Skipped(_WHAT, "", "no-channel", reason)
    before = noise.of(plain)
    if not least < before * (1 - _LEAST_GAIN):
        return Skipped(
            _WHAT,
            "",
            "no-gain",
            f"scaled channels give {_db(least):.1f} dB and the original ones {_db(before):.1f} dB "
            f"on {len(checks)} feeds held out",
        )
    rescale(model, free.slots, best)
    return int((best != 1).sum())


@dataclass(frozen=True)
class _Noise:
    """Noise over signal of the outputs of a model quantized without any further care."""

    plan: QuantPlan
    seen: Samples
    reference: Reference
    threads: int | None

    def of(self, model: ir.Model) -> float:
        """On the feeds held out, of a copy of the reference with other weights."""
        own = self.plan.on(model)
        ranges = collect_ranges(model, own.placement.value_names, self.seen, threads=self.threads)
        errors = self.reference.errors(quick_qdq(own, activation_params(own, ranges)))
        return errors.noise_ratio


def _db(share: float) -> float:
    return -10 * float(np.log10(share)) if share > 0 else np.inf


def _has_free(value: ir.Value, channels: ChannelMap, free: ScalableChannels) -> bool:
    ids = channels.values[value]
    return len(tracked_axes(ids)) == 1 and bool(free.free[channels.root[ids]].any())


def _factors(
    plan: QuantPlan,
    channels: ChannelMap,
    free: ScalableChannels,
    stats: dict[str, ChannelStatistics],
    margin: float,
) -> Array64:
    """The factor of every unit, 1 for those that stay."""
    size = len(channels.root)
    room = np.full(size, _MOST)
    activation, weight = np.zeros(size), np.zeros(size)
    chosen, target = set(plan.placement.nodes), plan.target
    for value in plan.placement.values:
        if value.name not in stats:
            continue
        seen = stats[value.name]
        line = channels.root[channels.values[value]].reshape(-1)
        _narrow(room, line, seen, margin * float(seen.low.min()), margin * float(seen.high.max()))
        step = _step(target.activation, seen)
        for power, noise in _reads(value, line, chosen, target):
            np.add.at(activation, line, step**2 * power)
            np.add.at(weight, line, seen.square / seen.count * noise)
    for value in free.clips:
        if value.name in stats:
            line = channels.root[channels.values[value]].reshape(-1)
            limits = output_bounds(_producer(value))
            assert limits is not None
            high = stats[value.name].high
            _narrow(room, line, stats[value.name], -np.inf, limits[1] * _MARGIN)
            room[line[high >= limits[1] * _MARGIN]] = 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(weight > 0, (activation / weight) ** 0.25, _MOST)
    best = np.where(activation > 0, best, 1.0)
    return np.where(free.free, np.clip(np.minimum(best, room), 1.0, _MOST), 1.0)


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    assert producer is not None
    return producer


def _narrow(
    room: Array64, line: NDArray[Any], seen: ChannelStatistics, low: float, high: float
) -> None:
    """What every unit may grow by, so that its channels stay within `low` and `high`."""
    for bound, extreme in ((low, np.minimum(seen.low, 0)), (high, np.maximum(seen.high, 0))):
        factor = np.divide(bound, extreme, out=np.full(extreme.shape, _MOST), where=extreme != 0)
        np.minimum.at(room, line, np.maximum(factor, 1.0))


def _step(qtype: QType, seen: ChannelStatistics) -> float:
    low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
    if qtype.symmetric:
        return max(-low, high) / qtype.qmax
    return (high - low) / (qtype.qmax - qtype.qmin)


def _reads(
    value: ir.Value, line: NDArray[Any], chosen: Container[ir.Node], target: Target
) -> Iterator[tuple[Array64, Array64]]:
    """Per integer layer that reads a value, by channel: `sum w^2`, and `sum d_w^2`."""
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
        inner = [axis for axis in summed if array.shape[axis] == len(line) and axis != out]
        if inner:
            total = power.sum(axis=tuple(a for a in range(array.ndim) if a != inner[0]))
            repeats = power.size / len(line) / steps.size
            yield total, np.full(len(line), float(steps.sum()) * repeats)
        elif out is not None and array.shape[out] == len(line):
            # Depthwise: a weight scale for each channel.
            yield power.sum(axis=others), np.zeros(len(line))


def _difference(model: ir.Model, scaled: ir.Model, feed: Feed, threads: int | None) -> str | None:
    """Run both; why they are not the same, or None."""
    want = Session(model, threads=threads).run(feed)
    got = Session(scaled, threads=threads).run(feed)
    for name, expected in want.items():
        if expected.dtype.kind != "f" or not expected.size:
            continue
        wrong = float(np.abs(expected - got[name]).max())
        if not wrong <= _TOLERANCE * float(np.abs(expected).max()):
            return f"output {name!r} of the model with scaled channels differs by {wrong:.3g}"
    return None
