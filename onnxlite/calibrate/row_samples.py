"""Rows of inner values along their last axis: a sample of them, and each channel's range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OVERFLOW_ADVICE, SamplesError
from onnxlite.inputs import Feed
from onnxlite.records import Progress, no_progress
from onnxlite.runtime import Session, tapped


@dataclass(frozen=True)
class RowSample:
    """A value seen as a matrix: its last axis are channels, all others are rows.

    Attributes:
        low: float32[channels], smallest number of each channel over all rows.
        high: float32[channels], the largest.
        rows: float32[n, channels], some rows, evenly spread over each feed.
    """

    low: NDArray[Any]
    high: NDArray[Any]
    rows: NDArray[Any]

    def merge(self, other: RowSample) -> RowSample:
        """Return the statistics of both."""
        return RowSample(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            np.concatenate([self.rows, other.rows]),
        )


def collect_row_samples(
    model: ir.Model,
    names: Iterable[str],
    feeds: Iterable[Feed],
    *,
    per_feed: int = 128,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> dict[str, RowSample]:
    """Run the feeds and keep rows of the named values.

    Args:
        model: the float model; values are named as in its main graph.
        names: `float32` values with at least one axis: graph inputs or outputs of nodes.
        feeds: the inputs; memory grows with their number times `per_feed`.
        per_feed: rows kept of each feed.
        threads: intra-operator threads; None takes all cores.
        progress: called after every feed.

    Raises:
        SamplesError: a value is NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    wanted = list(dict.fromkeys(names))
    session = Session(tapped(model, wanted), threads=threads)
    found: dict[str, RowSample] = {}
    for index, feed in enumerate(feeds, 1):
        outputs = {**session.run(feed), **feed}
        for name in wanted:
            matrix = outputs[name].reshape(-1, outputs[name].shape[-1])
            low, high = matrix.min(axis=0), matrix.max(axis=0)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise SamplesError(
                    f"value {name!r} is NaN or infinite on a calibration sample: {OVERFLOW_ADVICE}"
                )
            step = max(1, len(matrix) // per_feed)
            seen = RowSample(low, high, matrix[::step][:per_feed].copy())
            found[name] = found[name].merge(seen) if name in found else seen
        progress("sample rows", index, index)
    return found
