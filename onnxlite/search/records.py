"""Records of a search: trials, their ranking, and the report of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from onnxlite.evaluate import Ratio
from onnxlite.recipe import RunReport
from onnxlite.search.budget import Budget, Check
from onnxlite.search.candidates import CandidateId
from onnxlite.search.quality_evaluator import Quality

#: How a trial ended: measured in full; stopped before its last step, because its quality was
#: beyond rescue; failed, because a step did; or without change by a step, so that its recipe
#: is a shorter one's.
TrialStatus = Literal["measured", "stopped", "failed", "unchanged"]

#: Why a search ended.
Stopped = Literal["finished", "time limit", "interrupted"]

#: What is minimized within the budget: latency, and the size of those hardly slower than the
#: fastest; latency times size; size; or the loss of quality (where only latency or size are
#: limited).
Prefer = Literal["both", "latency", "size", "quality"]


#: Latencies this close to the fastest count as equal, in proportion.
AS_FAST = 0.03


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate that was tried.

    Attributes:
        number: from 1 on, in order.
        label: the candidate in a few words.
        recipe: as TOML, with the decisions that its steps made by measuring.
        status: how it ended.
        reason: why it was not measured in full, or is no improvement.
        quality: on the selection samples, of the last model that was evaluated.
        latency: relative to the original, one thread, batch 1; None if not measured.
        latency_ms: median of one run, in milliseconds.
        size_bytes: of the file.
        size: the same relative to the original.
        checks: the budget's limits.
        in_budget: whether it keeps to the budget.
        accepted: whether it also improves on the original; `reason` says why not.
        on_front: whether no other trial is better in quality, latency and size at once.
        seconds: of work, without results from the cache.
        candidate_id: identity of the candidate; None in reports of version 0.1.
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
    candidate_id: CandidateId | None = None

    @property
    def candidate(self) -> CandidateId:
        """Identity of the candidate."""
        assert self.candidate_id is not None
        return self.candidate_id

    @property
    def quality_checks(self) -> tuple[Check, ...]:
        """Limits on the loss of quality."""
        return tuple(check for check in self.checks if check.limits_quality)

    @property
    def is_within_quality(self) -> bool:
        """True if its figures keep to the limits on quality."""
        return self.status == "measured" and all(check.within for check in self.quality_checks)

    @property
    def excess(self) -> float | None:
        """Loss relative to the tightest limit on quality, above 1 beyond it; None if unknown."""
        factors = (check.excess for check in self.quality_checks)
        return max((factor for factor in factors if factor is not None), default=None)

    @property
    def loss(self) -> float:
        """Loss of the metric; infinite if not evaluated."""
        return math.inf if self.quality is None else self.quality.drop

    @property
    def point(self) -> tuple[float, float, float]:
        """Loss, latency and size relative to the original; infinite where not measured."""
        latency = math.inf if self.latency is None else self.latency.median
        return self.loss, latency, math.inf if self.size is None else self.size


def merit(trial: Trial, prefer: Prefer) -> tuple[float, float]:
    """Sort key of trials, smaller is better."""
    loss, latency, size = trial.point
    match prefer:
        case "latency":
            return latency, size
        case "size":
            return size, latency
        case "quality":
            return loss, latency * size
        case _:
            return latency * size, latency


def sorted_by_merit(trials: Iterable[Trial], prefer: Prefer) -> list[Trial]:
    """Sort trials, best first; `"latency"` sorts those about as fast as the fastest by size."""
    order = sorted(trials, key=lambda trial: (*merit(trial, prefer), trial.number))
    if prefer != "latency" or not order:
        return order
    _, fastest, _ = order[0].point
    as_fast = [trial for trial in order if trial.point[1] <= fastest * (1 + AS_FAST)]
    rest = order[len(as_fast) :]
    return [*sorted(as_fast, key=lambda trial: (trial.point[2], trial.point[1])), *rest]


def ranked(trials: Iterable[Trial], prefer: Prefer) -> list[Trial]:
    """Sort the accepted trials, best first."""
    return sorted_by_merit((trial for trial in trials if trial.accepted), prefer)


def with_pareto_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Mark the measured trials that no other beats in loss, latency and size at once."""
    points = [trial.point for trial in trials if trial.status == "measured"]

    def is_beaten(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points
        )

    return tuple(
        msgspec.structs.replace(
            trial, on_front=trial.status == "measured" and not is_beaten(trial.point)
        )
        for trial in trials
    )


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Record of the search that found a result.

    Attributes:
        budget: what was asked for.
        metric: name of the metric that `max_drop` limits.
        metric_reason: why it is that one.
        metric_meaning: of a drop of 1%.
        prefer: what was minimized within the budget.
        trials: every candidate tried, in order.
        chosen: number of the trial that is the result; None if it is the original.
        quality: of the result on the samples of the final check; None for the original.
        checks: the budget's limits on those samples.
        final_checks: number of candidates that the final check was made for.
        met: whether the result keeps to the budget.
        verdict: the outcome in one sentence.
        stopped: why the search ended: `"finished"`, `"time limit"` or `"interrupted"`.
        cached: number of results that the cache held.
        seconds: wall-clock time of the search.
        time_limit_s: its time limit; None where it had none.
        smallest: number of the smallest trial within the budget, if it is not the result.
        samples: number of samples by their use.
        sensitivity: fraction of the noise of INT8 that a layer causes, by its name; empty where
            it was not measured.
    """

    budget: Budget
    metric: str
    metric_reason: str
    metric_meaning: str = ""
    prefer: Prefer
    trials: tuple[Trial, ...]
    chosen: int | None
    quality: Quality | None
    checks: tuple[Check, ...]
    final_checks: int
    met: bool
    verdict: str
    stopped: Stopped
    cached: int
    seconds: float
    samples: dict[str, int]
    time_limit_s: float | None = None
    smallest: int | None = None
    sensitivity: dict[str, float] = {}

    @property
    def metric_text(self) -> str:
        """Name of the metric, the reason for it, and the meaning of a drop of 1%."""
        text = f"metric {self.metric}: {self.metric_reason}"
        return f"{text}; a drop of 1%: {self.metric_meaning}" if self.metric_meaning else text


class OptimizeReport(RunReport, frozen=True, kw_only=True):
    """The report of a run of the chosen recipe, with the search that chose it."""

    search: SearchRecord

    def __str__(self) -> str:
        return f"{self.search.verdict}\n{super().__str__()}"
