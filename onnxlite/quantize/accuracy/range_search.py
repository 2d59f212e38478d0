"""Range search, the observer `"auto"`: the range with the least error at the consumers.

Candidates are what the observers say, and fractions of the whole range. They are compared by
their error at the consumers, on whole tensors of a few samples. A range that is worse than
min/max by the squared error over all samples is dropped, because only that error sees outliers
that the few samples do not have. Of ranges that are nearly as good the widest is taken, because
both measures understate what clipping costs. The chosen ranges, and those of least squared
error, must then beat min/max at the outputs of the model, on samples held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxlite.calibrate import OBSERVERS, Levels, ObserverName, Range, ValueStatistics
from onnxlite.fidelity import Reference
from onnxlite.holdout import EveryKth
from onnxlite.quantize.accuracy.consumer_error import Array64, consumer_errors
from onnxlite.quantize.accuracy.fake_quant import fake_quantized
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.scales import integer_levels, params_for_activation
from onnxlite.records import Skipped
from onnxlite.runtime import Session
from onnxlite.samples import Feed, Samples, feed_size

#: Fractions of the whole range, besides what the observers say.
_FRACTIONS = (0.99, 0.98, 0.97, 0.95, 0.9, 0.8)
#: Entropy is left out: it is slow to search, and its ranges are the worst by far.
_OBSERVERS: tuple[ObserverName, ...] = ("moving-average", "percentile", "mse")
#: Errors within this factor of the least are equal.
_TIE = 1.05
#: A narrower range must have this fraction of the whole range's error, or less.
_MAX_ERROR = 0.95
#: Smaller gains at the outputs may be chance.
_MIN_GAIN_DB = 0.25
#: One sample of this many is held out, to be measured at the outputs, and at most `_MAX_HELD_OUT`.
_SAMPLES_PER_HELD_OUT, _MAX_HELD_OUT = 32, 8
#: Samples run for consumer errors, which take longer, as a fraction of those held out.
_FRACTION_MEASURED = 0.75
_HELD_OUT = EveryKth(2)


@dataclass(frozen=True)
class RangeChoice:
    """Ranges by name of the value, and the reason against narrower ones, if there is one."""

    ranges: dict[str, Range]
    skipped: tuple[Skipped, ...] = ()


def search_ranges(
    plan: QuantPlan,
    seen: Mapping[str, ValueStatistics],
    samples: Samples,
    *,
    threads: int | None,
) -> RangeChoice:
    """Choose a range for every value that was seen; min/max where nothing is better.

    Args:
        plan: what is quantized; its model is not changed.
        seen: statistics over all samples, by name of the value.
        samples: unlabelled inputs; a few of them are run.
        threads: of ONNX Runtime.

    Raises:
        ExecutionError: ONNX Runtime cannot run the model with measuring nodes or Q and DQ.
    """
    whole = {name: statistics.range for name, statistics in seen.items()}
    measured, held_out = _spread_samples(samples)
    if not held_out:
        return RangeChoice(whole, (_skipped("there are too few samples to hold some out"),))
    wide = {value.name for value in plan.activation_bits.values}
    candidates = {
        name: _candidates(statistics, integer_levels(plan.target, statistics.range))
        for name, statistics in seen.items()
        if name not in wide
    }
    candidates = {name: found for name, found in candidates.items() if len(found[0]) > 1}
    params = {
        name: [params_for_activation(one, plan.target) for one in ranges]
        for name, (ranges, _) in candidates.items()
    }
    errors = consumer_errors(plan, params, measured, threads=threads)
    by_consumers = {
        name: _widest_of_best(ranges, errors.get(name, error))
        for name, (ranges, error) in candidates.items()
    }
    by_squares = {
        name: _least_squared(ranges, error) for name, (ranges, error) in candidates.items()
    }
    choices = [whole]
    for narrower in (by_consumers, by_squares):
        if (choice := {**whole, **narrower}) not in choices:
            choices.append(choice)
    if len(choices) == 1:
        return RangeChoice(whole)
    twin, scales = fake_quantized(plan, choices)
    integers = Session(twin, threads=threads, fuse_qdq=False)
    reference = Reference(plan.model, held_out, threads=threads)
    before, *after = (
        reference.sqnr_db(lambda feed, given=given: integers.run(feed | given))  # type: ignore[misc]
        for given in scales
    )
    if not max(after) >= before + _MIN_GAIN_DB:
        return RangeChoice(whole, (_skipped(_comparison(before, max(after), len(held_out))),))
    return RangeChoice(choices[1 + after.index(max(after))])


def _candidates(seen: ValueStatistics, levels: Levels) -> tuple[list[Range], Array64]:
    """List distinct ranges and their squared errors over all samples.

    The whole range comes first; the others are narrower, and none is worse than it.
    """
    whole = seen.range
    found = [whole, *(OBSERVERS[name](seen, levels) for name in _OBSERVERS)]
    found += [Range(whole.low * part, whole.high * part) for part in _FRACTIONS]
    ranges = _distinct(found, (whole.high - whole.low) / (levels.qmax - levels.qmin))
    lows, highs = (np.array([getattr(one, side) for one in ranges]) for side in ("low", "high"))
    error = levels.errors(seen.histogram, lows, highs)
    kept = np.flatnonzero(error <= error[0])
    return [ranges[index] for index in kept], error[kept]


def _distinct(ranges: Sequence[Range], step: float) -> list[Range]:
    """Drop ranges that differ from an earlier one by less than a step of the integers."""
    kept = [ranges[0]]
    for one in ranges[1:]:
        least = min(max(abs(one.low - k.low), abs(one.high - k.high)) for k in kept)
        if least > 0 and least >= step:
            kept.append(one)
    return kept


def _widest_of_best(ranges: Sequence[Range], error: Array64) -> Range:
    """Choose the widest of the ranges with the least error, the first if none is better."""
    least = error.min()
    if least > _MAX_ERROR * error[0] or error[0] <= 0:
        return ranges[0]
    good = [one for one, value in zip(ranges, error, strict=True) if value <= _TIE * least]
    return max(good, key=lambda one: one.high - one.low)


def _least_squared(ranges: Sequence[Range], error: Array64) -> Range:
    """Choose the range of least squared error, the first if none is much better."""
    return ranges[int(error.argmin())] if error.min() <= _MAX_ERROR * error[0] else ranges[0]


def _spread_samples(samples: Samples) -> tuple[list[Feed], list[Feed]]:
    """Pick single samples spread over the stream: some to measure on, others held out."""
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
    measured = [sample for sample, out in zip(spread, mask, strict=True) if not out]
    held_out = [sample for sample, out in zip(spread, mask, strict=True) if out]
    most = max(min(2, len(measured)), int(_FRACTION_MEASURED * len(measured)))
    return [measured[index * len(measured) // most] for index in range(most)], held_out


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
