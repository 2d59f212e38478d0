"""Trials: candidates are built, evaluated and timed, as far as the cache does not know them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import onnx_ir as ir

from onnxlite.analysis.lineage import Origin
from onnxlite.cache import CacheKey
from onnxlite.errors import ExecutionError, OnnxliteError, OptionError
from onnxlite.evaluate import Latency, Ratio
from onnxlite.machine import is_busy
from onnxlite.recipe import Recipe, Tune
from onnxlite.records import Progress, StepReport
from onnxlite.search.budget import Check
from onnxlite.search.candidates import Candidate
from onnxlite.search.estimate import Estimate
from onnxlite.search.executor import StepResult, StepTask, TaskExecutor, parse_model
from onnxlite.search.job import SearchJob
from onnxlite.search.quality_evaluator import Quality, QualityEvaluator
from onnxlite.search.records import Trial, TrialStatus
from onnxlite.search.trial_cache import CachedStep, latency_key, quality_key, step_key
from onnxlite.step import Step

#: A ratio above this may be noise, or a few names less in the file.
MAX_FASTER_RATIO, MAX_SMALLER_RATIO = 0.98, 0.98
#: Seconds of interleaved runs per candidate; the chosen one is measured for longer.
TRIAL_TIMING_S, FINAL_TIMING_S = 2.0, 10.0
#: The latter as a fraction of the time limit, at most.
FINAL_TIMING_FRACTION = 0.05


@dataclass
class _RunningTrial:
    """A candidate and how far it is."""

    candidate: Candidate
    digest: str
    lineage: Mapping[str, Origin] = field(default_factory=dict)
    reports: list[StepReport] = field(default_factory=list)
    status: TrialStatus = "measured"
    reason: str | None = None
    quality: Quality | None = None
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.status != "measured" or len(self.reports) == len(self.candidate.steps)

    @property
    def next_step(self) -> Step:
        return self.candidate.steps[len(self.reports)]

    def take_over(self, made: CachedStep) -> None:
        """Continue from the result of a step."""
        if made.failure is not None or made.report is None:
            self.status, self.reason = "failed", made.failure
            return
        is_first = not self.reports
        self.reports.append(made.report)
        self.digest, self.lineage = made.digest, made.lineage
        if not is_first and not made.report.changed:
            self.status = "unchanged"
            self.reason = f"{made.report.step} changed nothing: {made.report.summary}"

    def resolved_steps(self) -> tuple[Step, ...]:
        """The steps, with their decisions by measurement written into their options."""
        steps = self.candidate.steps
        done = zip(steps, self.reports, strict=False)
        resolved = (step.with_resolved(report.resolved_options) for step, report in done)
        return (*resolved, *steps[len(self.reports) :])


class TrialRunner:
    """Tries candidates, and keeps the models of all trials.

    Args:
        job: the search.
        executor: runs the steps.

    Raises:
        OptionError: the budget limits what the outputs do not have.
    """

    def __init__(self, job: SearchJob, executor: TaskExecutor) -> None:
        self._job, self._executor = job, executor
        self._running: dict[int, _RunningTrial] = {}
        self._evaluator = QualityEvaluator(
            job.original, job.split.selection, job.metric.metric, labels=job.split.selection_labels
        )
        job.cache.write_model(job.serialized)
        # Report at once what cannot be checked, not after the first trial.
        unchanged = Ratio(median=1.0, low=1.0, high=1.0, minimum=1.0)
        self.checks(self._evaluator.evaluate(job.original), unchanged, 0.0, job.input_bytes)

    def run(self, candidates: Sequence[Candidate]) -> Iterator[Trial]:
        """Build, evaluate and time candidates; give each trial as it ends."""
        trials = [_RunningTrial(candidate, self._job.digest) for candidate in candidates]
        # Without workers one after the other: then the first results are there soon.
        groups = [trials] if self._executor.parallel else [[trial] for trial in trials]
        for group in groups:
            while unfinished := [trial for trial in group if not trial.is_done]:
                self._advance(unfinished)
            for running in group:
                number = len(self._running) + 1
                trial = self._measured(running, number)
                self._running[number] = running
                yield trial

    def serialized(self, trial: Trial) -> bytes:
        """Return the model of a trial, serialised."""
        return self._read_model(self._running[trial.number].digest)

    def model(self, trial: Trial) -> ir.Model:
        """Return the model of a trial, with its lineage."""
        return parse_model(self.serialized(trial), self._running[trial.number].lineage)

    def digest(self, trial: Trial) -> str:
        """Return the hash of the model of a trial."""
        return self._running[trial.number].digest

    def reports(self, trial: Trial) -> list[StepReport]:
        """Return the reports of the steps of a trial."""
        return self._running[trial.number].reports

    def checks(
        self, quality: Quality, ratio: Ratio, latency_ms: float, size_bytes: int
    ) -> tuple[Check, ...]:
        """Compare everything that is known of a model with the budget."""
        figures = {
            **quality.figures,
            "latency": Estimate(ratio.median, ratio.low, ratio.high),
            "latency_ms": Estimate(latency_ms),
            "size": Estimate(size_bytes / self._job.input_bytes),
            "bytes": Estimate(float(size_bytes)),
        }
        return self._job.budget.compare(figures, quality.samples)

    def final_latency(self, trial: Trial) -> Latency:
        """Measure the latency of a trial's model for longer, with memory and session starts."""
        job, digest = self._job, self.digest(trial)
        seconds = min(FINAL_TIMING_S, job.deadline.final_s(FINAL_TIMING_FRACTION))
        return self._latency(digest, seconds, job.deadline.final_progress, memory=True)

    def _read_model(self, digest: str) -> bytes:
        content = self._job.cache.read_model(digest)
        if content is None:
            raise ExecutionError(
                f"the cache in {self._job.cache.folder} lost a model of this search: start it "
                "again, and clear no cache that a search uses"
            )
        return content

    def _advance(self, trials: Sequence[_RunningTrial]) -> None:
        """Run one more step of each; candidates that begin alike need it once."""
        cache = self._job.cache
        waiting: dict[str, list[_RunningTrial]] = {}
        for trial in trials:
            waiting.setdefault(self._step_key(trial).name, []).append(trial)
        fresh: list[list[_RunningTrial]] = []
        for group in waiting.values():
            known = cache.read(self._step_key(group[0]), CachedStep)
            if known is not None and (known.failure or cache.read_model(known.digest)):
                self._take_over(group, known, 0.0)
            else:
                fresh.append(group)
        tasks = [self._task(group[0]) for group in fresh]
        for index, result in self._executor.run(tasks, self._job.deadline.progress):
            made = self._kept(fresh[index][0], result)
            self._take_over(fresh[index], made, result.seconds)

    def _step_key(self, trial: _RunningTrial) -> CacheKey:
        return step_key(trial.digest, trial.next_step, self._job.calibration_digest)

    def _task(self, trial: _RunningTrial) -> StepTask:
        return StepTask(
            label=trial.candidate.label,
            original=self._job.serialized,
            model=self._read_model(trial.digest),
            lineage=trial.lineage,
            step=trial.next_step,
            samples=self._job.split.calibration,
        )

    def _kept(self, trial: _RunningTrial, result: StepResult) -> CachedStep:
        """Write the result of a step to the cache, unless it says nothing about the step."""
        cache = self._job.cache
        made = CachedStep(
            digest="" if result.model is None else cache.write_model(result.model),
            report=result.report,
            lineage=result.lineage,
            failure=result.failure,
        )
        if not result.lost:
            cache.write(self._step_key(trial), made)
        return made

    def _take_over(self, group: Sequence[_RunningTrial], made: CachedStep, seconds: float) -> None:
        for trial in group:
            trial.seconds += seconds
            trial.take_over(made)
            self._stop_early(trial)

    def _stop_early(self, trial: _RunningTrial) -> None:
        """Stop a candidate beyond the limits on quality whose further steps can only lose more."""
        done = len(trial.reports)
        if trial.is_done or done < 2 or not trial.reports[-1].changed:
            return
        if any(isinstance(step, Tune) for step in trial.candidate.steps[done:]):
            return  # training may well bring it back
        trial.quality = self._quality(trial)
        if trial.quality is None:
            return
        unknown = Ratio(median=0.0, low=0.0, high=0.0, minimum=0.0)
        checks = self.checks(trial.quality, unknown, 0.0, 0)
        missed = [c for c in checks if c.limits_quality and c.verdict == "missed"]
        if missed:
            trial.status = "stopped"
            trial.reason = f"after {trial.reports[-1].step}: {missed[0]}"

    def _quality(self, trial: _RunningTrial) -> Quality | None:
        """Evaluate a candidate as far as it is; None, and a failed trial, if that cannot be."""
        job, key = self._job, None
        if (metric := job.metric.metric.cache_name) is not None:
            key = quality_key(trial.digest, job.digest, metric, job.selection_digest)
            if (known := job.cache.read(key, Quality)) is not None:
                return known
        try:
            quality = self._evaluator.evaluate(parse_model(self._read_model(trial.digest)))
        except OptionError:
            raise
        except OnnxliteError as error:
            trial.status, trial.reason = "failed", str(error)
            return None
        if key is not None:
            job.cache.write(key, quality)
        return quality

    def _latency(self, digest: str, seconds: float, progress: Progress, *, memory: bool) -> Latency:
        job = self._job
        key = latency_key(digest, job.digest, job.selection_digest, seconds)
        if (known := job.cache.read(key, Latency)) is not None:
            return known
        latency = job.benchmark(
            job.source,
            parse_model(self._read_model(digest)),
            samples=job.split.selection,
            memory=memory,
            time_limit_s=seconds,
            progress=progress,
        )
        job.cache.write(key, latency, busy=is_busy())
        return latency

    def _measured(self, running: _RunningTrial, number: int) -> Trial:
        """Evaluate and time a candidate whose steps are done."""
        start = time.perf_counter()
        job = self._job
        quality = self._quality(running) if running.status == "measured" else running.quality
        trial = Trial(
            number=number,
            candidate_id=running.candidate.id,
            label=running.candidate.label,
            recipe=Recipe(running.resolved_steps(), job.split.counts[0]).to_toml(),
            status=running.status,
            reason=running.reason,
            quality=quality,
            seconds=running.seconds,
        )
        if running.status != "measured" or quality is None:
            return trial
        latency = self._latency(running.digest, TRIAL_TIMING_S, job.deadline.progress, memory=False)
        size_bytes = len(self._read_model(running.digest))
        latency_ms = latency.candidate.median_ms
        checks = self.checks(quality, latency.ratio, latency_ms, size_bytes)
        in_budget = job.budget.accepts(checks)
        refusal = no_improvement(latency.ratio, size_bytes, job.input_bytes)
        if running.digest == job.digest:
            refusal = "nothing to change: it is the original"
        return msgspec.structs.replace(
            trial,
            latency=latency.ratio,
            latency_ms=latency_ms,
            size_bytes=size_bytes,
            size=size_bytes / job.input_bytes,
            checks=checks,
            in_budget=in_budget,
            accepted=in_budget and refusal is None,
            reason=refusal,
            seconds=running.seconds + time.perf_counter() - start,
        )


def no_improvement(ratio: Ratio, size_bytes: int, original_bytes: int) -> str | None:
    """Say why a result is no improvement on the original, whatever the budget allows.

    Args:
        ratio: latency relative to the original.
        size_bytes: file size of the result.
        original_bytes: file size of the original.
    """
    size = size_bytes / original_bytes
    if ratio.low > 1:
        return f"slower than the original: {ratio}"
    if size > 1:
        return f"larger than the original: {size_bytes:,} bytes against {original_bytes:,}"
    if ratio.high > MAX_FASTER_RATIO and size > MAX_SMALLER_RATIO:
        return f"neither faster nor smaller than the original: {ratio}, size {size:.3f}x"
    return None
