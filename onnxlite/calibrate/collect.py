"""Statistics of a model's values, from one pass over the samples.

Extremes are exact. The histogram is of a sample: up to some thousand elements of a feed, and of
many feeds not all, chosen by position, so that it does not depend on how the samples are split
among passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import length_hint

import onnx_ir as ir

from onnxlite.calibrate.gather import Gatherer
from onnxlite.calibrate.statistics import ValueStatistics
from onnxlite.calibrate.stream import check_seen, stream
from onnxlite.model import size_bytes
from onnxlite.records import Progress, silent
from onnxlite.samples import Samples

#: Samples that are enough for a histogram.
_ENOUGH = 128
#: Weights of a large model.
_LARGE_BYTES = 1 << 26
_GOLDEN = (math.sqrt(5) - 1) / 2


def collect_statistics(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, ValueStatistics]:
    """Run all samples once and return the statistics of each named value.

    Arguments and errors are those of `collect_ranges`.
    """
    wanted = list(dict.fromkeys(names))

    def collect(share: float) -> dict[str, ValueStatistics]:
        return collect_part(model, wanted, samples, share=share, threads=threads, progress=progress)

    return with_elements(collect, share_sampled(model, length_hint(samples)), wanted)


def share_sampled(model: ir.Model, count: int) -> float:
    """The share of feeds from which elements are taken for the histograms.

    That costs a small network as much as half of its own time, so of many samples not all give
    some. A second session then holds the weights once more: large models, whose own work is more,
    have one.

    Args:
        model: to be calibrated.
        count: of all samples; 0 where that is not known.
    """
    if count < 2 * _ENOUGH or size_bytes(model) > _LARGE_BYTES:
        return 1.0
    return _ENOUGH / count


def with_elements(
    collect: Callable[[float], dict[str, ValueStatistics]], share: float, names: Sequence[str]
) -> dict[str, ValueStatistics]:
    """What is collected from a share of the feeds, or from all where a value needs that.

    Raises:
        SamplesError: a value is empty on all samples.
    """
    found = collect(share)
    if share < 1 and not all(len(seen.histogram.counts) for seen in found.values()):
        found = collect(1.0)
    check_seen(names, found)
    return found


def collect_part(
    model: ir.Model,
    names: Sequence[str],
    samples: Samples,
    *,
    share: float,
    first: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> dict[str, ValueStatistics]:
    """The statistics of some of the feeds; a histogram is empty where none gave elements.

    Args:
        model: the float model.
        names: of distinct values.
        samples: these feeds.
        share: see `share_sampled`.
        first: index of the first of these feeds among all.
        threads: of ONNX Runtime.
        progress: called after every feed.
    """
    gatherer = Gatherer(len(names))

    def sampled(index: int) -> bool:
        # Multiples of the golden ratio hit every part of 0 to 1 alike, whatever has a period.
        return (first + index) * _GOLDEN % 1.0 < share

    for seen in stream(model, names, samples, sampled=sampled, threads=threads, progress=progress):
        gatherer.add(seen)
    found = zip(names, gatherer.statistics(), strict=True)
    return {name: statistics for name, statistics in found if statistics is not None}
