"""Times of models, of their nodes, and of single layers, on this machine."""

from __future__ import annotations

from onnxlite.timing.interleaved import (
    InterleavedTimer,
    Timer,
    current_timer,
    half_interval,
    run_seconds,
    time_ratios,
    use_timer,
)

__all__ = [
    "InterleavedTimer",
    "Timer",
    "current_timer",
    "half_interval",
    "run_seconds",
    "time_ratios",
    "use_timer",
]
