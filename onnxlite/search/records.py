"""Records of a search: trials, their ranking, and the report of the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from onnxlite.evaluate import Ratio
from onnxlite.recipe import RunReport
from onnxlite.search.budget import Budget, Check
from onnxlite.search.quality_evaluator import Quality

#: How a trial ended: measured in full; given up because its quality was beyond rescue before
#: the last step; failed because a step did; or a step changed nothing, so that the recipe is
#: no other than a shorter one.
TrialStatus = Literal["measured", "stopped", "failed", "idle"]

#: Why a search ended.
Stopped = Literal["finished", "time limit", "interrupted"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe that was tried.

    Attributes:
        number: from 1 on, in order.
        label: the recipe in a few words.
        recipe: as TOML.
        status: how it ended.
        reason: why it was not measured in full.
        quality: on the samples for the choice; of the last model that was judged.
        latency: against the original, one thread, batch 1; None if not measured.
        latency_ms: median of one run.
        size_bytes: of the file.
        size: the same as a share of the original's.
        checks: the budget's limits.
        in_budget: whether it keeps to the budget.
        accepted: whether it also improves on the original; `reason` says why not.
        on_front: whether no other trial is better in quality, latency and size at once.
        seconds: of work, without what was found in the cache.
    """

    number: int
    label: str
    recipe: str
    status: TrialStatus
    reason: str | None = None
    quality: Quality | None = None
    latency: Ratio | None = None
    latency_ms: float | None = None
    size_bytes: int | None = None
    size: float | None = None
    checks: tuple[Check, ...] = ()
    in_budget: bool = False
    accepted: bool = False
    on_front: bool = False
    seconds: float = 0.0


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How the result was found.

    Attributes:
        budget: what was asked for.
        metric: name of the metric that `max_drop` is about.
        metric_reason: why it is that one.
        prefer: what was to be made small within the budget.
        trials: every recipe tried, in order.
        chosen: number of the trial that is the result; None if it is the original.
        quality: of the result on the samples for the final check; None for the original.
        checks: the budget's limits on those samples.
        looks: how many candidates the final check was asked about.
        met: whether the result keeps to the budget.
        verdict: in one sentence, what came out.
        stopped: why the search ended: `"finished"`, `"time limit"` or `"interrupted"`.
        cached: look-ups that the cache answered.
        seconds: wall-clock time of the search.
        samples: how the samples were shared out.
        sensitivity: share of the noise of INT8 that is a layer's, by its name; empty where
            that was not asked.
    """

    budget: Budget
    metric: str
    metric_reason: str
    prefer: str
    trials: tuple[Trial, ...]
    chosen: int | None
    quality: Quality | None
    checks: tuple[Check, ...]
    looks: int
    met: bool
    verdict: str
    stopped: Stopped
    cached: int
    seconds: float
    samples: dict[str, int]
    sensitivity: dict[str, float] = {}


class OptimizeReport(RunReport, frozen=True, kw_only=True):
    """The record of a run of the chosen recipe, with the search that chose it."""

    search: SearchRecord

    def __str__(self) -> str:
        return f"{self.search.verdict}\n{super().__str__()}"


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
