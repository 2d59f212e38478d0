"""Ranges of activations from calibration samples, by the observer asked for.

The observer `"auto"` takes min/max or the ranges of least squared error, whichever is closer. The
latter cut rare values off, so they must beat min/max at the outputs of the model, on samples held
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxlite.calibrate import (
    OBSERVERS,
    Levels,
    Range,
    ValueStatistics,
    collect_ranges,
    collect_sharded,
    collect_statistics,
)
from onnxlite.fidelity import Reference
from onnxlite.holdout import EveryKth
from onnxlite.quantize.accuracy.fake_quant import fake_quantized
from onnxlite.quantize.core.options import QuantizeStatic
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.scales import integer_levels
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Feed, Samples, feed_size
from onnxlite.step import StepContext
from onnxlite.workers import Workers

#: A narrower range must have this fraction of the whole range's squared error, or less.
_MAX_ERROR = 0.95
#: Smaller gains at the outputs may be chance.
_MIN_GAIN_DB = 0.25
#: One sample of this many is held out, to be measured at the outputs, and at most `_MAX_HELD_OUT`.
_SAMPLES_PER_HELD_OUT, _MAX_HELD_OUT = 32, 8
_HELD_OUT = EveryKth(2)
#: Shards that the samples are cut into for workers.
_SHARDS = 16


@dataclass(frozen=True)
class RangeChoice:
    """Ranges by name of the value, and the reason against narrower ones, if there is one."""

    ranges: dict[str, Range]
    skipped: tuple[Skipped, ...] = ()


def calibrate_ranges(
    plan: QuantPlan, samples: Samples, options: QuantizeStatic, context: StepContext
) -> RangeChoice:
    """Find the range of every value of the plan, by name, with the observer asked for.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    model, names = plan.model, plan.placement.value_names
    threads, progress = context.threads, context.progress
    if options.observer == "minmax" and context.executor is None:
        # Nothing but two numbers per value and feed is needed.
        return RangeChoice(
            collect_ranges(model, names, samples, threads=threads, progress=progress)
        )
    if context.executor is None:
        seen = collect_statistics(model, names, samples, threads=threads, progress=progress)
    else:
        workers = Workers(context.executor)
        seen = collect_sharded(model, names, samples, workers, shards=_SHARDS, progress=progress)
    if options.observer == "auto":
        return _search_ranges(plan, seen, samples, threads=threads)
    observer = OBSERVERS[options.observer]
    # 65,536 steps need no outlier cut off.
    wide = {value.name for value in plan.activation_bits.values}
    return RangeChoice(
        {
            name: one.range
            if name in wide
            else observer(one, integer_levels(plan.target, one.range))
            for name, one in seen.items()
        }
    )


def _search_ranges(
    plan: QuantPlan,
    seen: Mapping[str, ValueStatistics],
    samples: Samples,
    *,
    threads: int | None,
) -> RangeChoice:
    """Choose min/max or least squared error for all values that were seen.

    Args:
        plan: what is quantized; its model is not changed.
        seen: statistics over all samples, by name of the value.
        samples: unlabelled inputs; a few of them are run.
        threads: of ONNX Runtime.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model with Q and DQ.
    """
    whole = {name: statistics.range for name, statistics in seen.items()}
    held_out = _spread_samples(samples)
    if not held_out:
        return RangeChoice(whole, (_skipped("there are too few samples to hold some out"),))
    wide = {value.name for value in plan.activation_bits.values}
    narrower = {
        name: _least_squared(statistics, integer_levels(plan.target, statistics.range))
        for name, statistics in seen.items()
        if name not in wide
    }
    choices = [whole, {**whole, **narrower}]
    if narrower.items() <= whole.items():
        return RangeChoice(whole)
    twin, scales = fake_quantized(plan, choices)
    integers = Session(twin, threads=threads, qdq="float")
    reference = Reference(plan.model, held_out, threads=threads)
    before, after = (
        reference.sqnr_db(lambda feed, given=given: integers.run(feed | given))  # type: ignore[misc]
        for given in scales
    )
    if not after >= before + _MIN_GAIN_DB:
        return RangeChoice(whole, (_skipped(_comparison(before, after, len(held_out))),))
    return RangeChoice(choices[1])


def _least_squared(seen: ValueStatistics, levels: Levels) -> Range:
    """Choose the range of least squared error, the whole one if that is hardly worse."""
    whole, best = seen.range, OBSERVERS["mse"](seen, levels)
    lows, highs = np.array([whole.low, best.low]), np.array([whole.high, best.high])
    error = levels.errors(seen.histogram, lows, highs)
    return best if error[1] <= _MAX_ERROR * error[0] else whole


def _spread_samples(samples: Samples) -> list[Feed]:
    """Pick single samples spread over the stream; none where there are fewer than two."""
    kept: list[Feed] = []
    count, stride = 0, 1
    for feed in samples:
        for sample in _single_samples(feed, samples):
            if count % stride == 0:
                kept.append(sample)
            count += 1
            if len(kept) > 2 * _MAX_HELD_OUT:
                kept, stride = kept[::2], 2 * stride
    wanted = 2 * min(max(2, count // _SAMPLES_PER_HELD_OUT), len(kept) // 2)
    spread = [kept[index * len(kept) // wanted] for index in range(wanted)]
    mask = _HELD_OUT.mask(len(spread))
    return [sample for sample, out in zip(spread, mask, strict=True) if out]


def _single_samples(feed: Feed, samples: Samples) -> Iterator[Feed]:
    """Yield the samples of a feed one by one; a fixed batch is not divided."""
    if any(spec.shape and isinstance(spec.shape[0], int) for spec in samples.inputs):
        yield feed
        return
    for index in range(feed_size(feed, samples.inputs)):
        yield {k: a[index : index + 1] if a.ndim else a for k, a in feed.items()}


def _comparison(before_db: float, after_db: float, count: int) -> str:
    return (
        f"on {count} samples held out narrower ranges give {after_db:.1f} dB and the whole ones "
        f"{before_db:.1f} dB"
    )


def _skipped(reason: str) -> Skipped:
    return Skipped("observer", "", "no-gain", reason)
