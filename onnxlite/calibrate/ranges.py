"""The range of every asked-for value over all samples, in memory that does not grow with them.

Minimum and maximum are computed inside ONNX Runtime (`calibrate.taps`): what leaves a run is
two numbers per value.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.calibrate.stream import check_seen, stream
from onnxlite.records import Progress, silent
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
        SamplesError: a value is NaN or infinite on some sample, or empty on all of them.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    wanted = list(dict.fromkeys(names))
    lows, highs = np.full(len(wanted), np.inf), np.full(len(wanted), -np.inf)
    for seen in stream(
        model, wanted, samples, sampled=lambda _: False, threads=threads, progress=progress
    ):
        np.minimum(lows, seen.lows, out=lows)
        np.maximum(highs, seen.highs, out=highs)
    limits = zip(wanted, lows.tolist(), highs.tolist(), strict=True)
    found = {name: Range(low, high) for name, low, high in limits if high >= low}
    check_seen(wanted, found)
    return found
