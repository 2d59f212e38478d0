"""Trials: candidates are built, evaluated and timed, as far as the cache does not know them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import onnx_ir as ir

from onnxlite.analysis.lineage import Origin
from onnxlite.errors import OnnxliteError, OptionError
from onnxlite.evaluate import Ratio, benchmark
from onnxlite.machine import machine
from onnxlite.quantize.mixed.sensitivity import Sensitivity, sensitivity
from onnxlite.recipe import Tune
from onnxlite.recipe.document import Recipe
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.search.budget import QUALITY_LIMITS, Budget
from onnxlite.search.candidates import Candidate
from onnxlite.search.estimate import Estimate
from onnxlite.search.executor import StepResult, StepTask, TaskExecutor, parse
from onnxlite.search.quality_evaluator import Quality, QualityEvaluator
from onnxlite.search.records import Trial, TrialStatus
from onnxlite.search.trial_cache import CachedStep, Store, code_digest, key_of
from onnxlite.step import Step

logger = logging.getLogger(__name__)


#: Neither noise makes a model faster, nor a few names less a file smaller.
_FASTER, _SMALLER = 0.98, 0.98
#: Seconds of interleaved runs per candidate; the chosen one is measured for longer.
_TIMING_S = 2.0


class TrialLatency(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's latency against the original."""

    ratio: Ratio
    candidate_ms: float


@dataclass(frozen=True, kw_only=True)
class TrialSetup:
    """What all trials of a search share.

    Attributes:
        original: the input, serialised.
        digest: its hash.
        input_bytes: size of the input's file.
        calibration: what steps are given.
        calibration_count: how many samples that are.
        calibration_digest: their hash.
        selection: what candidates are judged and timed on.
        selection_digest: their hash, with that of the labels.
        metric_key: what a metric is called in the cache; None if its values cannot be kept.
        budget: the limits.
    """

    original: bytes
    digest: str
    input_bytes: int
    calibration: SamplesLike
    calibration_count: int
    calibration_digest: str
    selection: SamplesLike
    selection_digest: str
    metric_key: str | None
    budget: Budget


@dataclass
class _TrialState:
    """How far a candidate is."""

    candidate: Candidate
    digest: str
    lineage: Mapping[str, Origin] = field(default_factory=dict)
    reports: list[StepReport] = field(default_factory=list)
    status: TrialStatus = "measured"
    reason: str | None = None
    quality: Quality | None = None
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        return self.status != "measured" or len(self.reports) == len(self.candidate.steps)


class TrialRunner:
    """Tries candidates out.

    Args:
        setting: what they share.
        judge: of their quality on the samples for the choice.
        store: what is known already.
        crew: who does the steps.
        progress: called as work goes on; what it raises goes through.
    """

    def __init__(
        self,
        setting: TrialSetup,
        judge: QualityEvaluator,
        store: Store,
        crew: TaskExecutor,
        progress: Progress,
    ) -> None:
        self._setting, self._judge, self._store = setting, judge, store
        self._crew, self._progress = crew, progress
        self._states: dict[int, _TrialState] = {}
        self.tried: list[tuple[Candidate, Trial]] = []
        store.keep_model(setting.original)

    def try_out(self, candidates: Sequence[Candidate], told: Callable[[Trial], None]) -> None:
        """Build, judge and time candidates; every trial is added to `tried`, and told."""
        states = [_TrialState(candidate, self._setting.digest) for candidate in candidates]
        # Alone, one after the other: then the first results are there soon.
        groups = [states] if self._crew.parallel else [[state] for state in states]
        for group in groups:
            while open_states := [state for state in group if not state.done]:
                self._advance(open_states)
            for state in group:
                trial = self._trial(state, len(self.tried) + 1)
                self._states[trial.number] = state
                self.tried.append((state.candidate, trial))
                told(trial)

    def content(self, trial: Trial) -> bytes:
        """The model of a trial, serialised."""
        content = self._store.model(self._states[trial.number].digest)
        assert content is not None
        return content

    def model(self, trial: Trial) -> ir.Model:
        """The model of a trial, with its lineage."""
        return parse(self.content(trial), self._states[trial.number].lineage)

    def reports(self, trial: Trial) -> list[StepReport]:
        """What the steps of a trial reported."""
        return self._states[trial.number].reports

    def sensitivity(self, target: str) -> Sensitivity | None:
        """What each layer of the simplified model costs in INT8; None if that cannot be told."""
        first = next((t for c, t in self.tried if len(c.steps) == 1), None)
        if first is None or first.status != "measured":
            return None
        key = key_of(
            "sensitivity",
            self._states[first.number].digest,
            target,
            self._setting.calibration_digest,
            code_digest(),
        )
        if (known := self._store.record(key, Sensitivity)) is not None:
            return known
        try:
            found = sensitivity(
                self.model(first),
                self._setting.calibration,
                target=target,
                confirm=0,
                times=False,
                progress=self._progress,
            )
        except OnnxliteError as error:
            logger.info("the layers' sensitivity is not known: %s", error)
            return None
        self._store.keep(key, found)
        return found

    def _advance(self, states: Sequence[_TrialState]) -> None:
        """One more step for each; candidates that begin alike share the work."""
        wanted: dict[str, list[_TrialState]] = {}
        for state in states:
            step = state.candidate.steps[len(state.reports)]
            wanted.setdefault(self._key(state.digest, step), []).append(state)
        made: dict[str, tuple[CachedStep, float]] = {}
        missing: list[str] = []
        for key in wanted:
            known = self._store.record(key, CachedStep)
            if known is not None and (known.failure or self._store.model(known.digest)):
                made[key] = known, 0.0
            else:
                missing.append(key)
        works = []
        for key in missing:
            state = wanted[key][0]
            content = self._store.model(state.digest)
            assert content is not None
            step = state.candidate.steps[len(state.reports)]
            label = state.candidate.label
            works.append(
                (
                    label,
                    StepTask(
                        self._setting.original,
                        content,
                        state.lineage,
                        step,
                        self._setting.calibration,
                    ),
                )
            )
        for index, done, seconds in self._crew.do(works, self._progress):
            made[missing[index]] = self._keep(missing[index], done), seconds
        for key, (record, seconds) in made.items():
            for state in wanted[key]:
                state.seconds += seconds
                _follow(state, record)
                self._give_up(state)

    def _key(self, digest: str, step: Step) -> str:
        options = Recipe((step,)).to_toml()
        return key_of("step", digest, options, self._setting.calibration_digest, code_digest())

    def _keep(self, key: str, done: StepResult) -> CachedStep:
        digest = "" if done.model is None else self._store.keep_model(done.model)
        record = CachedStep(
            digest=digest, report=done.report, lineage=done.lineage, failure=done.failure
        )
        if not done.lost:
            self._store.keep(key, record)
        return record

    def _give_up(self, state: _TrialState) -> None:
        """Stop a candidate whose quality is beyond rescue although steps are left to lose more."""
        if state.done or len(state.reports) < 2 or not state.reports[-1].changed:
            return
        if any(isinstance(step, Tune) for step in state.candidate.steps[len(state.reports) :]):
            return  # which may well rescue it
        state.quality = self._quality(state)
        if state.quality is None:
            return
        checks = self._setting.budget.check(
            {**state.quality.figures, **_NOTHING_MEASURED}, state.quality.samples
        )
        lost = [c for c in checks if c.limit in QUALITY_LIMITS and c.verdict == "missed"]
        if lost:
            state.status = "stopped"
            state.reason = f"after {state.reports[-1].step}: {lost[0]}"

    def _quality(self, state: _TrialState) -> Quality | None:
        """The figures of a candidate as far as it is; None if it cannot be judged."""
        setting = self._setting
        key = None
        if setting.metric_key is not None:
            key = key_of(
                "quality", state.digest, setting.digest, setting.metric_key,
                setting.selection_digest, code_digest(),
            )  # fmt: skip
            if (known := self._store.record(key, Quality)) is not None:
                return known
        content = self._store.model(state.digest)
        assert content is not None
        try:
            quality = self._judge.judge(parse(content))
        except OptionError:
            raise
        except OnnxliteError as error:
            state.status, state.reason = "failed", str(error)
            return None
        if key is not None:
            self._store.keep(key, quality)
        return quality

    def _timed(self, state: _TrialState) -> TrialLatency:
        setting = self._setting
        key = key_of(
            "latency", state.digest, setting.digest, str(machine()), setting.selection_digest
        )
        if (known := self._store.record(key, TrialLatency)) is not None:
            return known
        content = self._store.model(state.digest)
        assert content is not None
        found = benchmark(
            parse(setting.original),
            parse(content),
            samples=setting.selection,
            memory=False,
            time_limit_s=_TIMING_S,
            progress=self._progress,
        )
        timed = TrialLatency(ratio=found.ratio, candidate_ms=found.candidate.median_ms)
        self._store.keep(key, timed)
        return timed

    def _trial(self, state: _TrialState, number: int) -> Trial:
        start = time.perf_counter()
        recipe = Recipe(_resolved_options(state), self._setting.calibration_count)
        trial = Trial(
            number=number,
            label=state.candidate.label,
            recipe=recipe.to_toml(),
            status=state.status,
            reason=state.reason,
            quality=state.quality,
            seconds=state.seconds,
        )
        if state.status != "measured":
            return trial
        quality = self._quality(state)
        if quality is None:
            return msgspec.structs.replace(trial, status=state.status, reason=state.reason)
        timed = self._timed(state)
        content = self._store.model(state.digest)
        assert content is not None
        nbytes = len(content)
        checks = self._setting.budget.check(
            figures_of(quality, timed, nbytes, self._setting.input_bytes), quality.samples
        )
        size = nbytes / self._setting.input_bytes
        in_budget = self._setting.budget.accepts(checks)
        refused = (
            "nothing to change: it is the original"
            if state.digest == self._setting.digest
            else no_better(timed.ratio, size)
        )
        return msgspec.structs.replace(
            trial,
            quality=quality,
            latency=timed.ratio,
            latency_ms=timed.candidate_ms,
            size_bytes=nbytes,
            size=size,
            checks=checks,
            in_budget=in_budget,
            accepted=in_budget and refused is None,
            reason=refused,
            seconds=state.seconds + time.perf_counter() - start,
        )


#: While steps are left, nothing of a candidate but its quality is known.
_NOTHING_MEASURED = {name: Estimate(0.0) for name in ("latency", "latency_ms", "size", "bytes")}


def _resolved_options(state: _TrialState) -> tuple[Step, ...]:
    """The steps, with what they decided by measuring written into their options."""
    resolved_options: list[Step] = list(state.candidate.steps)
    for index, report in enumerate(state.reports):
        if report.resolved_options:
            resolved_options[index] = msgspec.structs.replace(
                resolved_options[index], **report.resolved_options
            )
    return tuple(resolved_options)


def figures_of(
    quality: Quality, timed: TrialLatency, size_bytes: int, input_bytes: int
) -> dict[str, Estimate]:
    """All that a budget may limit, by its name."""
    ratio = timed.ratio
    return {
        **quality.figures,
        "latency": Estimate(ratio.median, ratio.low, ratio.high),
        "latency_ms": Estimate(timed.candidate_ms),
        "size": Estimate(size_bytes / input_bytes),
        "bytes": Estimate(float(size_bytes)),
    }


def _follow(state: _TrialState, made: CachedStep) -> None:
    """Write a step's outcome down in the state of a candidate."""
    if made.failure is not None or made.report is None:
        state.status, state.reason = "failed", made.failure
        return
    first = not state.reports
    state.reports.append(made.report)
    state.digest, state.lineage = made.digest, made.lineage
    if not first and not made.report.changed:
        state.status = "idle"
        state.reason = f"{made.report.step} changed nothing: {made.report.summary}"


def no_better(ratio: Ratio, size: float) -> str | None:
    """Why a result is no improvement on the original whatever the budget says."""
    if ratio.low > 1:
        return f"slower than the original: {ratio}"
    if size > 1:
        return f"larger than the original: {size:.2f}x"
    if ratio.high > _FASTER and size > _SMALLER:
        return f"neither faster nor smaller than the original: {ratio}, size {size:.3f}x"
    return None


def with_front(trials: Sequence[Trial], front: set[int]) -> tuple[Trial, ...]:
    """The trials, those on the front marked."""
    return tuple(msgspec.structs.replace(t, on_front=t.number in front) for t in trials)
