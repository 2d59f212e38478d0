"""Outlier samples: one sample, or less than 1% of them, that more than doubles a range.

A range that a single sample dictates wastes a bit or more on all others. Found from the limits of
single samples, for each value by itself; whether those samples are left out is decided by what
ordinary samples gain (`quantize/static/ranges.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from onnxlite.calibrate import Range, SampleLimits
from onnxlite.holdout import SampleStream

#: Largest fraction of the samples that are outliers; a single one always may be.
_MAX_FRACTION = 0.01
#: Fewer samples than this do not show what is ordinary.
_MIN_SAMPLES = 8
#: A range is dictated by the samples without which it is narrower by this factor.
_FACTOR = 2.0


def outlier_samples(limits: Mapping[str, SampleLimits], stream: SampleStream) -> frozenset[int]:
    """Find the samples that dictate ranges, no more than 1% of all.

    Args:
        limits: of samples, by name of the value.
        stream: the samples.
    """
    if stream.total < _MIN_SAMPLES:
        return frozenset()
    most = max(1, int(stream.total * _MAX_FRACTION))
    votes: Counter[int] = Counter()
    for seen in limits.values():
        if not seen.whole:
            votes.update(_dictators(seen, most))
    # Of equally many values the first sample, so that the order of values does not matter.
    ranked = sorted(votes, key=lambda sample: (-votes[sample], sample))[:most]
    return frozenset(other for sample in ranked for other in stream.unit_of(sample))


def _dictators(seen: SampleLimits, most: int) -> list[int]:
    """The fewest samples without which the range is less than half as wide; none of too many."""
    whole = seen.without(())
    assert whole is not None
    farthest = [*seen.lows.samples[:most].tolist(), *seen.highs.samples[:most].tolist()]
    inner = seen.without(farthest)
    if inner is None or whole.width < _FACTOR * inner.width:
        return []
    # Samples hardly beyond the others are not what makes the range wide.
    excess = seen.beyond(inner)
    found = sorted(excess, key=lambda sample: (-excess[sample], sample))
    for count in range(1, most + 1):
        rest = seen.without(found[:count])
        if rest is not None and whole.width >= _FACTOR * rest.width:
            return found[:count]
    return []


def dictated_values(
    limits: Mapping[str, SampleLimits], outliers: Collection[int], stream: SampleStream
) -> dict[str, Range]:
    """Find the values whose ranges outliers dictate; by name, the ranges without them."""
    found = {}
    for name, seen in limits.items():
        whole, rest = seen.without(()), range_without(seen, outliers, stream)
        if whole is not None and rest is not None and whole.width >= _FACTOR * rest.width:
            found[name] = rest
    return found


def range_without(
    seen: SampleLimits, samples: Collection[int], stream: SampleStream
) -> Range | None:
    """Return the range of a value over all other samples.

    Of values that hide their samples the limits of whole feeds are left out.
    """
    if seen.whole:
        samples = {stream.feed_of(sample).start for sample in samples}
    return seen.without(samples)
