"""A search from its first trial to its proof: what `optimize` puts together and reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

import onnx
import onnx_ir as ir

from onnxlite.errors import OnnxliteError
from onnxlite.evaluate import Latency, Ratio, benchmark
from onnxlite.machine import machine
from onnxlite.model import PlainModel, clone, disk_bytes, to_bytes
from onnxlite.prune import explain_channels
from onnxlite.recipe import Recipe, RunReport, Simplify
from onnxlite.recipe.proof import Run, prove
from onnxlite.records import StepReport
from onnxlite.samples import Samples, input_specs
from onnxlite.search.budget import QUALITY_LIMITS, Budget, Check
from onnxlite.search.candidates import Candidate, formats
from onnxlite.search.deadline import Deadline, training_steps
from onnxlite.search.executor import TaskExecutor, TimeUp
from onnxlite.search.metric import MetricLike, choose_metric, metric_name
from onnxlite.search.quality_evaluator import Quality, QualityEvaluator
from onnxlite.search.records import (
    OptimizeReport,
    Prefer,
    SearchRecord,
    Stopped,
    Trial,
    best,
    on_front,
)
from onnxlite.search.split import SampleSplit, digest
from onnxlite.search.strategy import SearchStrategy
from onnxlite.search.trial_cache import Store, hashed, key_of
from onnxlite.search.trial_runner import (
    TrialLatency,
    TrialRunner,
    TrialSetup,
    figures_of,
    no_better,
    with_front,
)
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)

#: How many candidates the final check is asked about. Each look at it makes it a little less
#: unseen, so they are few and counted.
_MOST_LOOKS = 4
_FINAL_TIMING_S = 10.0
#: The original against itself.
_UNCHANGED = TrialLatency(ratio=Ratio(median=1.0, low=1.0, high=1.0, minimum=1.0), candidate_ms=0.0)


class Search:
    """One search: its parts, put together."""

    def __init__(
        self,
        model: PlainModel,
        original: ir.Model,
        shares: SampleSplit,
        *,
        budget: Budget,
        metric: MetricLike | None,
        prefer: Prefer | None,
        cache: Store,
        clock: Deadline,
        crew: TaskExecutor,
        seed: int,
    ) -> None:
        self._model, self._original, self._shares = model, original, shares
        self._budget, self._store, self._clock = budget, cache, clock
        self._seed = seed
        self._noise: dict[str, float] = {}
        self._prefer: Prefer = prefer or ("both" if budget.limits_quality else "quality")
        labelled = shares.selection_labels is not None
        self._metric, self._metric_reason = choose_metric(metric, original, labelled=labelled)
        specs = input_specs(original)
        content = to_bytes(original)
        self._setting = TrialSetup(
            original=content,
            digest=hashed(content),
            input_bytes=_input_bytes(model, content),
            calibration=shares.calibration,
            calibration_count=shares.counts[0],
            calibration_digest=digest(Samples(shares.calibration, specs)),
            selection=shares.selection,
            selection_digest=digest(Samples(shares.selection, specs), shares.selection_labels),
            metric_key=self._metric if isinstance(self._metric, str) else None,
            budget=budget,
        )
        judge = QualityEvaluator(
            original, shares.selection, self._metric, labels=shares.selection_labels
        )
        # Say at once what cannot be checked, not after the first trial.
        budget.check(figures_of(judge.judge(original), _UNCHANGED, 1, 1), shares.counts[1])
        self.lab = TrialRunner(self._setting, judge, cache, crew, clock.progress)

    def run(self, target: str, on_trial: Callable[[Trial], None] | None) -> Stopped:
        """Try candidates until there are no more, time is up, or the user has enough."""
        rounds = SearchStrategy(
            list(formats(target=target)),
            budget=self._budget,
            prefer=self._prefer,
            prunable=self._prunable,
            fragile=lambda: self._fragile(target),
            training=self._training,
            seed=self._seed,
        )
        self._rounds = rounds

        def told(trial: Trial) -> None:
            self._clock.best = self._best_text()
            if on_trial is not None:
                on_trial(trial)

        self._told = told
        try:
            for batch in rounds.batches(self.lab.tried):
                self._try_out(batch)
            self._fragile(target)
        except TimeUp:
            return "time limit"
        except KeyboardInterrupt:
            logger.warning("interrupted: the best result so far is checked and taken")
            return "interrupted"
        return "finished"

    def _try_out(self, batch: Sequence[Candidate]) -> None:
        known = {candidate.label for candidate, _ in self.lab.tried}
        fresh = [candidate for candidate in batch if candidate.label not in known]
        self._clock.trials = len(self.lab.tried)
        self.lab.try_out(fresh, self._told)

    def _fragile(self, target: str) -> list[str]:
        """The layers that cost most in INT8, worst first."""
        found = self.lab.sensitivity(target)
        if found is None:
            return []
        self._noise = {layer.name: layer.share for layer in found.layers}
        return [layer.name for layer in found.ranked]

    def finish(self, stopped: Stopped) -> tuple[ir.Model, OptimizeReport]:
        """Check the best trials on unseen samples, and prove the first that holds."""
        final: QualityEvaluator | None = None
        seen: set[int] = set()
        why = ""
        while len(seen) < _MOST_LOOKS:
            trial = next((t for t in self._ranked() if t.number not in seen), None)
            if trial is None:
                break
            seen.add(trial.number)
            shares = self._shares
            final = final or QualityEvaluator(
                self._original, shares.check, self._metric, labels=shares.check_labels
            )
            model = self.lab.model(trial)
            quality = final.judge(model)
            assert trial.latency is not None
            assert trial.latency_ms is not None
            # The longer timing is for those that keep the quality.
            known = TrialLatency(ratio=trial.latency, candidate_ms=trial.latency_ms)
            checks = self._checks(trial, quality, known)
            worse = None
            if all(check.within for check in checks if check.limit in QUALITY_LIMITS):
                latency = self._final_latency(model, self.lab.content(trial))
                timed = TrialLatency(ratio=latency.ratio, candidate_ms=latency.candidate.median_ms)
                checks = self._checks(trial, quality, timed)
                worse = no_better(latency.ratio, self._size(trial))
                if self._budget.accepts(checks) and worse is None:
                    report = self._proved(trial, model, latency)
                    record = self._record(stopped, trial, quality, checks, len(seen))
                    return model, _joined(report, record)
            why = worse or "; ".join(str(c) for c in checks if not c.within or c.verdict != "met")
            why = f"trial {trial.number} ({trial.label}) did not hold on unseen samples: {why}"
            logger.info("%s", why)
            stopped = self._a_little_less(trial, stopped)
        report = self._unchanged()
        why = why or _why_none([trial for _, trial in self.lab.tried])
        record = self._record(stopped, None, None, (), len(seen), why)
        return clone(self._original), _joined(report, record)

    def _checks(self, trial: Trial, quality: Quality, timed: TrialLatency) -> tuple[Check, ...]:
        nbytes = len(self.lab.content(trial))
        figures = figures_of(quality, timed, nbytes, self._setting.input_bytes)
        return self._budget.check(figures, quality.samples)

    def _size(self, trial: Trial) -> float:
        return len(self.lab.content(trial)) / self._setting.input_bytes

    def _ranked(self) -> list[Trial]:
        return best([trial for _, trial in self.lab.tried], self._prefer)

    def _a_little_less(self, failed: Trial, stopped: Stopped) -> Stopped:
        """Try what lies between a trial that did not hold and the next one."""
        if stopped != "finished":
            return stopped
        try:
            self._try_out(self._rounds.between(failed, self.lab.tried))
        except TimeUp:
            return "time limit"
        except KeyboardInterrupt:
            return "interrupted"
        return stopped

    def _final_latency(self, model: ir.Model, content: bytes) -> Latency:
        """The latency of the winner, measured for longer; kept like that of all trials."""
        setting = self._setting
        key = key_of(
            "final latency",
            hashed(content),
            setting.digest,
            str(machine()),
            setting.selection_digest,
        )
        if (known := self._store.record(key, Latency)) is not None:
            return known
        latency = benchmark(
            self._source,
            model,
            samples=self._shares.selection,
            time_limit_s=_FINAL_TIMING_S,
            progress=self._clock.final,
        )
        self._store.keep(key, latency)
        return latency

    @property
    def _source(self) -> PlainModel:
        """The file, where there is one."""
        is_path = isinstance(self._model, str | os.PathLike)
        return self._model if is_path else self._original

    def _proved(self, trial: Trial, model: ir.Model, latency: Latency) -> RunReport:
        return self._prove(model, Recipe.from_toml(trial.recipe), self.lab.reports(trial), latency)

    def _unchanged(self) -> RunReport:
        return self._prove(clone(self._original), Recipe((Simplify(),)), [], False)

    def _prove(
        self,
        model: ir.Model,
        recipe: Recipe,
        steps: Sequence[StepReport],
        latency: Latency | Literal[False],
    ) -> RunReport:
        shares = self._shares
        run = Run(
            model=self._model,
            original=self._original,
            recipe=recipe,
            held_out=shares.check,
            use=shares.use,
            output=None,
            benchmark=latency,
            labels=shares.check_labels if self._metric == "accuracy" else None,
            context=StepContext(progress=self._clock.final),
            start=self._clock.start,
        )
        return prove(run, model, steps)

    def _record(
        self,
        stopped: Stopped,
        chosen: Trial | None,
        quality: Quality | None,
        checks: tuple[Check, ...],
        looks: int,
        why: str = "",
    ) -> SearchRecord:
        trials = [trial for _, trial in self.lab.tried]
        if chosen is None:
            verdict = f"the result is the original: {why}"
        else:
            assert chosen.latency is not None
            verdict = f"trial {chosen.number} of {len(trials)}: {chosen.label}; {quality}"
            undecided = [str(check) for check in checks if check.verdict == "undecided"]
            if undecided:
                verdict += f"; too few samples to be sure: {', '.join(undecided)}"
        counts = self._shares.counts
        return SearchRecord(
            budget=self._budget,
            metric=metric_name(self._metric),
            metric_reason=self._metric_reason,
            prefer=self._prefer,
            trials=with_front(trials, on_front(trials)),
            chosen=None if chosen is None else chosen.number,
            quality=quality,
            checks=checks,
            looks=looks,
            met=chosen is not None,
            verdict=verdict,
            stopped=stopped,
            cached=self._store.found,
            seconds=self._clock.elapsed(),
            sensitivity=self._noise,
            samples=dict(zip(("calibration", "selection", "check"), counts, strict=True)),
        )

    def _prunable(self) -> bool:
        """Whether any channel of the simplified model may go."""
        floats = [t for c, t in self.lab.tried if c.line == "float" and t.status == "measured"]
        if not floats:
            return False
        try:
            groups = explain_channels(self.lab.model(floats[0])).groups
        except OnnxliteError as error:
            logger.info("no channels are tried: %s", error)
            return False
        return any(not group.pinned for group in groups)

    def _training(self) -> int | None:
        times = [t.latency_ms for _, t in self.lab.tried if t.latency_ms is not None]
        return training_steps(
            self._original,
            self._setting.digest,
            self._setting.calibration,
            self._store,
            limit=self._clock.limit,
            latencies_ms=times,
        )

    def _best_text(self) -> str:
        ranked = self._ranked()
        if not ranked:
            return "nothing within the budget yet"
        top = ranked[0]
        ratio = top.latency.median if top.latency is not None else 1.0
        return f"best {ratio:.2f}x latency, {top.size:.2f}x size"


def _input_bytes(model: PlainModel, content: bytes) -> int:
    if isinstance(model, str | os.PathLike):
        return disk_bytes(model)
    return model.ByteSize() if isinstance(model, onnx.ModelProto) else len(content)


def _joined(report: RunReport, record: SearchRecord) -> OptimizeReport:
    """The report of the run with that of the search."""
    fields = {name: getattr(report, name) for name in report.__struct_fields__}
    if not record.met:
        fields["recipe"] = ""
    warnings = tuple(
        f"undecided with so few samples: {check}"
        for check in record.checks
        if check.verdict == "undecided"
    )
    fields["warnings"] = (*report.warnings, *warnings)
    return OptimizeReport(**fields, search=record)


def _why_none(trials: Sequence[Trial]) -> str:
    """Why no trial can be the result."""
    if not trials:
        return "the search ended before its first trial did"
    near = [t for t in trials if t.in_budget]
    if near:
        return f"nothing within the budget is better; {near[0].label}: {near[0].reason}"
    judged = [t for t in trials if t.checks]
    if not judged:
        return f"no trial could be measured; {trials[0].label}: {trials[0].reason}"
    closest = min(judged, key=lambda t: sum(not check.within for check in t.checks))
    missed = ", ".join(str(check) for check in closest.checks if not check.within)
    return f"no trial keeps to the budget; {closest.label}: {missed or closest.reason}"
