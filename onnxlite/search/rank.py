"""Which of two trials is better, and which are beaten by none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from onnxlite.search.records import Trial

#: What is made small within the budget: latency times size, latency, size, or the loss of
#: quality (where only latency or size are limited).
Prefer = Literal["both", "latency", "size", "quality"]


def merit(trial: Trial, prefer: Prefer) -> tuple[float, float]:
    """Less is better; what was not measured is worst."""
    latency = trial.latency.median if trial.latency is not None else math.inf
    size = trial.size if trial.size is not None else math.inf
    both = latency * size
    match prefer:
        case "latency":
            return latency, size
        case "size":
            return size, latency
        case "quality":
            return _lost(trial), both
        case _:
            return both, latency


def best(trials: Sequence[Trial], prefer: Prefer) -> list[Trial]:
    """The accepted trials, best first."""
    return sorted((t for t in trials if t.accepted), key=lambda t: (*merit(t, prefer), t.number))


def on_front(trials: Sequence[Trial]) -> set[int]:
    """Numbers of the measured trials that no other beats in loss, latency and size at once."""
    points = {t.number: _point(t) for t in trials if t.status == "measured"}
    return {
        number
        for number, point in points.items()
        if not any(_beats(other, point) for other in points.values())
    }


def _point(trial: Trial) -> tuple[float, float, float]:
    latency = trial.latency.median if trial.latency is not None else math.inf
    return _lost(trial), latency, trial.size if trial.size is not None else math.inf


def _beats(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    return one != two and all(a <= b for a, b in zip(one, two, strict=True))


def _lost(trial: Trial) -> float:
    return trial.quality.drop if trial.quality is not None else math.inf
