"""Ranges of activations from calibration samples, by the observer asked for.

The observer `"auto"` begins with min/max and decides two things, both at the outputs of the model:

1. Outlier samples, one or less than 1%, that more than double a range are left out if ordinary
   samples need that.
2. Ranges of least squared error are taken if ordinary samples gain by them and the samples that
   exceed them do not lose more. Each sample is measured by itself: rare bursts are no outliers.

What was cut off, and whose limits those were, is in the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as replaced

from onnxlite.calibrate import (
    OBSERVERS,
    Levels,
    Range,
    ValueStatistics,
    collect_sharded,
    collect_statistics,
)
from onnxlite.holdout import SampleStream
from onnxlite.quantize.core.options import CutRange, ObserverChoice
from onnxlite.quantize.core.plan import QuantPlan
from onnxlite.quantize.core.scales import integer_levels
from onnxlite.quantize.static.hold_out import settle_hold_out
from onnxlite.quantize.static.outlier_samples import (
    dictated_values,
    outlier_samples,
    range_without,
)
from onnxlite.quantize.static.range_trial import (
    RangeTrial,
    TrialFigures,
    leaving_out_pays,
    narrower_holds,
)
from onnxlite.records import Skipped
from onnxlite.samples import Samples
from onnxlite.step import StepContext
from onnxlite.workers import Workers

#: A narrower range must have this fraction of the whole range's squared error, or less.
_MAX_ERROR = 0.95
#: Ordinary samples and rare ones that a choice is measured on; ordinary ones where none are held
#: out.
_MAX_ORDINARY, _MAX_RARE, _SHARED = 8, 8, 4
#: Shards that the samples are cut into for workers.
_SHARDS = 16
#: Widths that differ less, as a fraction, are those of the same range.
_SAME_WIDTH = 1e-3


@dataclass(frozen=True)
class RangeChoice:
    """Ranges of all values, and what was left out of them.

    Attributes:
        ranges: by name of the value.
        held_out: numbers of the samples that nothing was fitted to.
        outliers: numbers of the samples that are left out for the sake of the others.
        cut: ranges that calibration samples exceed, the most cut one first.
        skipped: why ranges are not narrower, and which ones outliers dictate.
    """

    ranges: dict[str, Range]
    held_out: tuple[int, ...] = ()
    outliers: tuple[int, ...] = ()
    cut: tuple[CutRange, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def recalibrated(self, again: RangeChoice, numbers: Sequence[int]) -> RangeChoice:
        """Take the ranges of a second calibration, on those samples that were not left out.

        Args:
            again: the second choice.
            numbers: the samples' numbers in the first calibration.
        """
        cut = [replaced(cut, farthest=numbers[cut.farthest]) for cut in again.cut]
        # What was cut for the sake of outliers still is, though values have other units.
        return replace(self, ranges=again.ranges, cut=self.cut if self.outliers else tuple(cut))


def calibrate_ranges(
    plan: QuantPlan,
    samples: Samples,
    observer: ObserverChoice,
    context: StepContext,
    *,
    hold_out: Iterable[int] = (),
) -> RangeChoice:
    """Find the range of every value of the plan, by name, with the observer asked for.

    Args:
        plan: of the float model, which is not changed.
        samples: the calibration data.
        observer: how ranges are chosen.
        context: threads, executor and progress.
        hold_out: numbers of samples that ranges need not cover; those that make one much wider
            are covered nevertheless.

    Raises:
        SamplesError: a value is NaN or infinite on some sample.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    seen = _collect(plan, samples, observer, context)
    held_out = settle_hold_out(hold_out, {name: one.limits for name, one in seen.items()})
    calibration = _Calibration(plan, SampleStream(samples), seen, held_out)
    if observer == "auto":
        return _choose(calibration, threads=context.threads)
    whole = calibration.ranges()
    ranges = calibration.observed(observer, whole)
    return RangeChoice(
        ranges,
        held_out,
        cut=calibration.cut(ranges, whole),
        skipped=calibration.dictated_notes(
            'decides it: drop such samples, or use observer="auto", which leaves them out where '
            "ordinary ones need that"
        ),
    )


def _collect(
    plan: QuantPlan, samples: Samples, observer: ObserverChoice, context: StepContext
) -> dict[str, ValueStatistics]:
    model, names = plan.model, plan.placement.value_names
    progress = context.progress
    if context.executor is not None:
        workers = Workers(context.executor)
        return collect_sharded(model, names, samples, workers, shards=_SHARDS, progress=progress)
    elements = observer in ("mse", "auto")
    return collect_statistics(
        model, names, samples, elements=elements, threads=context.threads, progress=progress
    )


@dataclass(frozen=True)
class _Calibration:
    """What is known of all values after the pass over the samples.

    Attributes:
        plan: what is quantized.
        stream: the samples.
        seen: statistics over all samples, by name of the value.
        held_out: numbers of samples that the ranges do not cover.
    """

    plan: QuantPlan
    stream: SampleStream
    seen: Mapping[str, ValueStatistics]
    held_out: tuple[int, ...]

    def ranges(self, outliers: Collection[int] = ()) -> dict[str, Range]:
        """Ranges over all samples but those held out and outliers."""
        found = {}
        for name, one in self.seen.items():
            # Values that hide their samples cover those held out: whole feeds would be too much.
            dropped = set(outliers) if one.limits.whole else {*self.held_out, *outliers}
            rest = range_without(one.limits, dropped, self.stream) if dropped else None
            found[name] = one.range if rest is None else rest
        return found

    def observed(self, observer: ObserverChoice, whole: Mapping[str, Range]) -> dict[str, Range]:
        """Ranges of an observer, within the ranges of all calibration samples."""
        assert observer != "auto"
        find = OBSERVERS[observer]
        return {**whole, **{name: find(*self._within(name, whole)) for name in self._narrow}}

    def least_squared(self, whole: Mapping[str, Range]) -> dict[str, Range]:
        """Ranges of least squared error, the whole one where that is hardly worse."""
        return {
            **whole,
            **{name: _least_squared(*self._within(name, whole)) for name in self._narrow},
        }

    @property
    def _narrow(self) -> list[str]:
        """Values of 8 bits: 65,536 steps need nothing cut off."""
        wide = {value.name for value in self.plan.activation_bits.values}
        return [name for name in self.seen if name not in wide]

    def _within(self, name: str, whole: Mapping[str, Range]) -> tuple[ValueStatistics, Levels]:
        statistics = replace(self.seen[name], range=whole[name])
        return statistics, integer_levels(self.plan.target, statistics.range)

    def beyond(self, name: str, inner: Range) -> dict[int, float]:
        """How far each calibration sample exceeds a range of a value, as a fraction of it."""
        limits = self.seen[name].limits
        found = limits.beyond(inner)
        if not limits.whole:
            return found
        return {
            sample: far for first, far in found.items() for sample in self.stream.feed_of(first)
        }

    def exceeding(self, ranges: Mapping[str, Range], besides: Collection[int]) -> list[int]:
        """The samples that exceed ranges most, over all values; no more than a few."""
        total: defaultdict[int, float] = defaultdict(float)
        for name, inner in ranges.items():
            for sample, far in self.beyond(name, inner).items():
                total[sample] += far
        ranked = sorted(total, key=lambda sample: (-total[sample], sample))
        return [sample for sample in ranked if sample not in besides][:_MAX_RARE]

    def ordinary(self, outliers: Collection[int]) -> list[int]:
        """Samples that a choice is measured on: some held out, or some of all."""
        count = min(_SHARED, self.stream.total)
        found = self.held_out or tuple(self.stream.spread(count))
        found = tuple(sample for sample in found if sample not in outliers)
        return list(found[:: -(-len(found) // _MAX_ORDINARY) or 1])

    def cut(self, ranges: Mapping[str, Range], whole: Mapping[str, Range]) -> tuple[CutRange, ...]:
        """The ranges that are narrower than the whole ones, the most cut one first."""
        names = [n for n in ranges if ranges[n].width < (1 - _SAME_WIDTH) * whole[n].width]
        names.sort(key=lambda name: ranges[name].width / whole[name].width)
        return tuple(self._cut(name, ranges[name]) for name in names)

    def _cut(self, name: str, inner: Range) -> CutRange:
        seen = self.seen[name].range
        beyond = self.beyond(name, inner)
        return CutRange(
            name=name,
            low=inner.low,
            high=inner.high,
            seen_low=seen.low,
            seen_high=seen.high,
            beyond=len(beyond),
            samples=self.stream.total,
            farthest=max(beyond, key=lambda sample: beyond[sample], default=0),
        )

    def outliers(self) -> frozenset[int]:
        """Samples that dictate ranges."""
        limits = {name: one.limits for name, one in self.seen.items()}
        return outlier_samples(limits, self.stream)

    def dictated_notes(self, comment: str) -> tuple[Skipped, ...]:
        """Name the values whose ranges outliers dictate."""
        outliers = self.outliers()
        limits = {name: one.limits for name, one in self.seen.items()}
        values = dictated_values(limits, outliers, self.stream) if outliers else {}
        message = (
            f"{_samples(outliers)} of {self.stream.total}, without which the range is less than "
            f"half as wide, {comment}"
        )
        return tuple(Skipped("calibrate", name, "outlier-samples", message) for name in values)


def _choose(calibration: _Calibration, *, threads: int | None) -> RangeChoice:
    """Choose ranges by what they do to ordinary samples and to rare ones."""
    stream, held_out = calibration.stream, calibration.held_out
    whole, outliers = calibration.ranges(), calibration.outliers()
    ordinary = calibration.ordinary(outliers)
    if stream.total < 2 or not ordinary:
        return RangeChoice(whole, held_out, skipped=(_few(),))
    bases = [whole, calibration.ranges(outliers)] if outliers else [whole]
    choices = [*bases, *map(calibration.least_squared, bases)]
    narrower = [choices[len(bases) + index] != base for index, base in enumerate(bases)]
    if len(bases) == 1 and not narrower[0]:
        return RangeChoice(whole, held_out)
    trial = RangeTrial(calibration.plan, choices, stream.single(ordinary), threads=threads)
    chosen = 0
    skipped: list[Skipped] = []
    if outliers:
        few = sorted(outliers)[:_MAX_RARE]
        before, after = trial.compare(0, 1, stream.single(few))
        chosen = int(leaving_out_pays(before, after))
        skipped += calibration.dictated_notes(_outlier_comment(before, after, left_out=chosen == 1))
    left_out = tuple(sorted(outliers)) if chosen else ()
    if narrower[chosen]:
        rare = calibration.exceeding(choices[len(bases) + chosen], {*held_out, *left_out})
        before, after = trial.compare(chosen, len(bases) + chosen, stream.single(rare))
        if narrower_holds(before, after):
            chosen += len(bases)
        else:
            skipped.append(_no_gain(before, after, len(ordinary), len(rare)))
    ranges = choices[chosen]
    return RangeChoice(ranges, held_out, left_out, calibration.cut(ranges, whole), tuple(skipped))


def _least_squared(seen: ValueStatistics, levels: Levels) -> Range:
    """Choose the range of least squared error, the whole one if that is hardly worse."""
    whole, best = seen.range, OBSERVERS["mse"](seen, levels)
    lows, highs = np.array([whole.low, best.low]), np.array([whole.high, best.high])
    error = levels.errors(seen.histogram, lows, highs)
    return best if error[1] <= _MAX_ERROR * error[0] else whole


def _few() -> Skipped:
    return Skipped("observer", "", "no-gain", "there are too few samples to hold some out")


def _no_gain(before: TrialFigures, after: TrialFigures, ordinary: int, rare: int) -> Skipped:
    return Skipped(
        "observer",
        "",
        "no-gain",
        f"narrower ranges give {after.ordinary_db:.1f} dB and the whole ones "
        f"{before.ordinary_db:.1f} dB on {ordinary} ordinary samples, {after.rare_db:.1f} dB and "
        f"{before.rare_db:.1f} dB on {rare} samples that exceed the narrower ones",
    )


def _outlier_comment(before: TrialFigures, after: TrialFigures, *, left_out: bool) -> str:
    """What was done about outliers, and the figures of both kinds of samples."""
    figures = (
        f"ordinary samples have {before.ordinary_db:.1f} dB with it and {after.ordinary_db:.1f} dB "
        f"without, the outlier {before.rare_db:.1f} dB and {after.rare_db:.1f} dB"
    )
    if left_out:
        return f"is left out: {figures}"
    return f"decides it: {figures}; drop it from the samples if it is not real"


def _samples(numbers: Iterable[int]) -> str:
    shown: Sequence[int] = sorted(numbers)
    listed = ", ".join(map(str, shown[:_MAX_RARE])) + (", ..." if shown[_MAX_RARE:] else "")
    return f"sample{'' if len(shown) == 1 else 's'} {listed}"
