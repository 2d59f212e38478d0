"""The evenly spaced numbers that a quantized type can hold, as observers see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate.histogram import Array64, Histogram
from onnxlite.calibrate.ranges import Range

#: Bins that a search looks at: 8 to a step of an 8-bit type.
SEARCH_BINS = 2048


@dataclass(frozen=True)
class Levels:
    """A quantized type: `qmin` to `qmax`, and whether its zero lies in the middle."""

    qmin: int
    qmax: int
    symmetric: bool

    def scale_zero(self, low: Array64, high: Array64) -> tuple[Array64, Array64]:
        """Scale and zero point of ranges `[k]`, as `quantize` gives them; 0 is exact."""
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if self.symmetric:
            bound = np.maximum(-low, high)
            return np.where(bound > 0, bound, 1.0) / self.qmax, np.zeros_like(bound)
        width = high - low
        scale = np.where(width > 0, width, 1.0) / (self.qmax - self.qmin)
        return scale, np.clip(np.rint(self.qmin - low / scale), self.qmin, self.qmax)

    def errors(self, seen: Histogram, low: Array64, high: Array64) -> Array64:
        """Mean squared error of the histogram's elements under each of k ranges: [k]."""
        middles, counts = seen.at_most(SEARCH_BINS).occupied()
        scale, zero = self.scale_zero(low, high)
        scale, zero = scale[:, None], zero[:, None]
        # In place: these are the largest arrays of a search.
        error: Array64 = middles / scale
        np.rint(error, out=error)
        np.maximum(error, self.qmin - zero, out=error)
        np.minimum(error, self.qmax - zero, out=error)
        error *= scale
        error -= middles
        np.square(error, out=error)
        result: Array64 = (error @ counts) / counts.sum()
        return result


def shrunk(
    seen: Range, low: NDArray[Any] | float, high: NDArray[Any] | float
) -> tuple[Array64, Array64]:
    """Limits of `seen`, each multiplied by its factors; together as arrays of one length."""
    lows, highs = np.broadcast_arrays(
        np.float64(seen.low) * np.asarray(low), np.float64(seen.high) * np.asarray(high)
    )
    return np.atleast_1d(lows).astype(np.float64), np.atleast_1d(highs).astype(np.float64)
