"""A timer that tells made-up times, and a made-up record of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlite.evaluate import Latency, Ratio, Timing, machine
from onnxlite.inputs import Feed
from onnxlite.runtime import Session


class FakeTimer:
    """Times the first model at 1 and the others at what `ratios(sessions, feed)` says."""

    def __init__(self, ratios: Callable[[Sequence[Session], Feed], Sequence[float]]) -> None:
        self._ratios = ratios

    def times(
        self, sessions: Sequence[Session], feeds: Sequence[Sequence[Feed]], **_: object
    ) -> NDArray[np.float64]:
        """One round on the first feed."""
        return np.array([[1.0, *self._ratios(sessions, feeds[0][0])]])


def made_up_latency(ratio: float) -> Latency:
    """A measurement of two models whose interval is 0.1 wide on both sides."""
    timing = Timing(median_ms=1.0, minimum_ms=1.0, start_ms=1.0)
    return Latency(
        ratio=Ratio(median=ratio, low=ratio - 0.1, high=ratio + 0.1, minimum=ratio),
        reference=timing,
        candidate=timing,
        rounds=5,
        threads=1,
        inputs={},
        machine=machine(),
        notes=(),
        seconds=0.0,
    )
