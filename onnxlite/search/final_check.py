"""Final check and proof: the best trials on unseen samples, and the report of the first that holds.

Each look at the samples of the final check makes them a little less unseen, so looks are few and
counted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import onnx_ir as ir

from onnxlite.evaluate import Latency, Ratio, compare
from onnxlite.model import clone
from onnxlite.recipe import Recipe, RunReport, Simplify
from onnxlite.recipe.proof import Run, judge_fidelity, prove
from onnxlite.records import StepReport
from onnxlite.search.budget import Check
from onnxlite.search.deadline import LEAST_LIMIT_S
from onnxlite.search.job import SearchJob
from onnxlite.search.quality_evaluator import Quality, QualityEvaluator
from onnxlite.search.records import (
    OptimizeReport,
    SearchRecord,
    Trial,
    ranked,
    with_pareto_front,
)
from onnxlite.search.search import Search
from onnxlite.search.strategy import step_back
from onnxlite.search.trial_runner import MAX_FASTER_RATIO, no_improvement
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)

#: Number of candidates that the final check is made for.
MAX_FINAL_CHECKS = 4
#: A trial of less than this fraction of the result's size is named beside it.
CLEARLY_SMALLER = 0.9


@dataclass(frozen=True, kw_only=True)
class CheckedTrial:
    """A trial on the samples of the final check.

    Attributes:
        trial: which one.
        model: its model.
        quality: on those samples.
        checks: the budget's limits on them.
        latency: measured for longer than that of the trial; None if the quality is missed.
        refusal: why it is not the result; None if it is.
    """

    trial: Trial
    model: ir.Model
    quality: Quality
    checks: tuple[Check, ...]
    latency: Latency | None
    refusal: str | None


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Outcome of the final check.

    Attributes:
        result: the trial that holds; None where the result is the original.
        reason: why it is the original.
        looks: number of candidates that were checked.
    """

    result: CheckedTrial | None
    reason: str
    looks: int


def check_best(search: Search) -> Conclusion:
    """Check the best trials until one holds; after one that fails try one a little gentler."""
    job = search.job
    evaluator: QualityEvaluator | None = None
    seen: set[int] = set()
    reason = ""
    while len(seen) < MAX_FINAL_CHECKS:
        candidates = ranked(search.history.trials, job.prefer)
        trial = next((trial for trial in candidates if trial.number not in seen), None)
        if trial is None:
            break
        seen.add(trial.number)
        evaluator = evaluator or QualityEvaluator(
            job.original, job.split.check, job.metric.metric, labels=job.split.check_labels
        )
        checked = _check(search, evaluator, trial)
        if checked.refusal is None:
            return Conclusion(result=checked, reason="", looks=len(seen))
        reason = (
            f"trial {trial.number} ({trial.label}) did not hold on unseen samples: "
            f"{checked.refusal}"
        )
        logger.info("%s", reason)
        search.try_out(step_back(job.problem, search.history, trial))
    reason = reason or _reason_for_none(search)
    return Conclusion(result=None, reason=reason, looks=len(seen))


def _check(search: Search, evaluator: QualityEvaluator, trial: Trial) -> CheckedTrial:
    """Evaluate a trial on unseen samples, and time it for longer if it keeps the quality."""
    job, runner = search.job, search.runner
    model, size_bytes = runner.model(trial), len(runner.serialized(trial))
    quality = evaluator.evaluate(model)
    assert trial.latency is not None
    assert trial.latency_ms is not None
    checks = runner.checks(quality, trial.latency, trial.latency_ms, size_bytes)
    latency, refusal = None, None
    if all(check.within for check in checks if check.limits_quality):
        latency = runner.final_latency(trial)
        ratio: Ratio = latency.ratio
        checks = runner.checks(quality, ratio, latency.candidate.median_ms, size_bytes)
        refusal = no_improvement(ratio, size_bytes, job.input_bytes)
    if refusal is None:
        refusal = _why_not_usable(job, model)
    if refusal is None and not (latency is not None and job.budget.accepts(checks)):
        open_checks = (check for check in checks if not check.within or check.verdict != "met")
        refusal = "; ".join(map(str, open_checks))
    return CheckedTrial(
        trial=trial, model=model, quality=quality, checks=checks, latency=latency, refusal=refusal
    )


def _why_not_usable(job: SearchJob, model: ir.Model) -> str | None:
    """Reason why a model is useless on the samples of the final check; None if it is not."""
    fidelity = compare(job.source, model, samples=job.split.check)
    usability = judge_fidelity(
        job.original, fidelity, floor_db=job.floor_db, advice="allow less loss"
    )
    return None if usability.usable else str(usability)


def _reason_for_none(search: Search) -> str:
    """Say why no trial can be the result."""
    trials = search.history.trials
    if search.stopped == "time limit" and len(trials) < 2:
        limit_s = search.job.deadline.limit_s or 0.0
        tried = "anything but simplification" if trials else "anything"
        more_s = max(4 * limit_s, LEAST_LIMIT_S)
        return (
            f"the time limit of {limit_s:g} s ended before {tried} was tried: give more time, for "
            f"example time_limit_s={more_s:g}"
        )
    if not trials:
        return "the search ended before its first trial did"
    if near := [trial for trial in trials if trial.in_budget]:
        return f"nothing within the budget is better; {near[0].label}: {near[0].reason}"
    measured = [trial for trial in trials if trial.checks]
    if not measured:
        return f"no trial could be measured; {trials[0].label}: {trials[0].reason}"
    closest = min(measured, key=lambda trial: sum(not check.within for check in trial.checks))
    missed = ", ".join(str(check) for check in closest.checks if not check.within)
    return f"no trial keeps to the budget; {closest.label}: {missed or closest.reason}"


def prove_result(search: Search, conclusion: Conclusion) -> tuple[ir.Model, OptimizeReport]:
    """Compare the result with the original like `onnxlite.run` does, and write the report."""
    result = conclusion.result
    if result is None:
        model = clone(search.job.original)
        report = _proof(search.job, model, Recipe((Simplify(),)), [], None)
        report = msgspec.structs.replace(report, recipe="")
    else:
        model = result.model
        recipe = Recipe.from_toml(result.trial.recipe)
        reports = search.runner.reports(result.trial)
        report = _proof(search.job, model, recipe, reports, result.latency)
    record = _record(search, conclusion)
    undecided = (str(check) for check in record.checks if check.verdict == "undecided")
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    fields["warnings"] = (*report.warnings, *undecided)
    return model, OptimizeReport(**fields, search=record)


def _proof(
    job: SearchJob,
    model: ir.Model,
    recipe: Recipe,
    reports: Sequence[StepReport],
    latency: Latency | None,
) -> RunReport:
    run = Run(
        model=job.model,
        original=job.original,
        recipe=recipe,
        held_out=job.split.check,
        use=job.split.use,
        output=None,
        benchmark=latency or False,
        metric=job.metric.metric.with_labels(job.split.check_labels),
        context=StepContext(floor_db=job.floor_db, progress=job.deadline.final_progress),
        start=job.deadline.start,
    )
    return prove(run, model, reports)


def _record(search: Search, conclusion: Conclusion) -> SearchRecord:
    job, trials, result = search.job, search.history.trials, conclusion.result
    return SearchRecord(
        budget=job.budget,
        metric=job.metric.name,
        metric_reason=job.metric.reason,
        metric_meaning=job.metric.metric.meaning,
        prefer=job.prefer,
        trials=with_pareto_front(trials),
        chosen=None if result is None else result.trial.number,
        quality=None if result is None else result.quality,
        checks=() if result is None else result.checks,
        final_checks=conclusion.looks,
        met=result is not None,
        verdict=_verdict(search, conclusion),
        stopped=search.stopped,
        cached=job.cache.hits,
        seconds=job.deadline.elapsed_s(),
        time_limit_s=job.deadline.limit_s,
        smallest=_smallest(search, conclusion),
        sensitivity=search.sensitivity,
        samples=dict(zip(("calibration", "selection", "check"), job.split.counts, strict=True)),
    )


def _smallest(search: Search, conclusion: Conclusion) -> int | None:
    """Number of a trial within the budget that is clearly smaller than the result."""
    result = conclusion.result
    if result is None or search.job.prefer == "size":
        return None
    small = next(iter(ranked(search.history.trials, "size")), None)
    _, _, size = result.trial.point
    if small is None or small.point[2] > size * CLEARLY_SMALLER:
        return None
    return small.number


def _verdict(search: Search, conclusion: Conclusion) -> str:
    result, trials = conclusion.result, search.history.trials
    ended = ""
    if search.stopped == "time limit":
        ended = f"; stopped by the time limit of {search.job.deadline.limit_s:g} s (time_limit_s)"
    if result is None:
        return f"the result is the original: {conclusion.reason}{ended}"
    verdict = (
        f"trial {result.trial.number} of {len(trials)}: {result.trial.label}; {result.quality}"
    )
    if result.latency is not None and result.latency.ratio.high > MAX_FASTER_RATIO:
        verdict += "; it is smaller, not faster"
    undecided = [str(check) for check in result.checks if check.verdict == "undecided"]
    if undecided:
        verdict += f"; not certain: {', '.join(undecided)}"
    if (number := _smallest(search, conclusion)) is not None:
        small = trials[number - 1]
        _, latency, size = small.point
        verdict += (
            f'; smaller with prefer="size": {small.label}, {size:.2f}x the size at {latency:.2f}x '
            "the latency"
        )
    return f"{verdict}{ended}"
