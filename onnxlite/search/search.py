"""Search phase: trials as the strategy proposes them, until it proposes none or time is up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from onnxlite.errors import OnnxliteError
from onnxlite.interruption import checked_by
from onnxlite.prune import explain_channels
from onnxlite.quantize.mixed.sensitivity import Sensitivity, sensitivity
from onnxlite.search.deadline import TimeUp, training_steps
from onnxlite.search.job import SearchJob
from onnxlite.search.records import Stopped, Trial, ranked
from onnxlite.search.strategy import Batch, History, Question, propose
from onnxlite.search.trial_cache import sensitivity_key
from onnxlite.search.trial_runner import TrialRunner

logger = logging.getLogger(__name__)


@dataclass
class Search:
    """State of a search: what it has found out so far.

    Attributes:
        job: what was asked for.
        runner: tries candidates and keeps their models.
        history: all trials, and the answers to the strategy's questions.
        stopped: why it ended.
        sensitivity: fraction of the noise of INT8 that each layer causes, by its name.
    """

    job: SearchJob
    runner: TrialRunner
    history: History = field(default_factory=History)
    stopped: Stopped = "finished"
    sensitivity: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Try candidates until the strategy proposes none, time is up, or the user interrupts."""
        self._until_stopped(self._follow_strategy)
        if self.stopped == "interrupted":
            logger.warning("interrupted: the best result so far is checked and taken")

    def try_out(self, candidates: Batch) -> None:
        """Try further candidates, unless the search was stopped."""
        if self.stopped == "finished":
            self._until_stopped(lambda: self._try_out(candidates))

    def _until_stopped(self, work: Callable[[], None]) -> None:
        try:
            with checked_by(self.job.deadline.check):
                work()
        except TimeUp:
            self.stopped = "time limit"
        except KeyboardInterrupt:
            self.stopped = "interrupted"

    def _follow_strategy(self) -> None:
        answers: dict[Question, Callable[[], Any]] = {
            "prunable": self._is_prunable,
            "sensitive_layers": self._sensitive_layers,
            "training_steps": self._training_steps,
        }
        while (wanted := propose(self.job.problem, self.history)) is not None:
            if isinstance(wanted, str):
                self.history = self.history.answered(wanted, answers[wanted]())
            else:
                self._try_out(wanted)
        self._sensitive_layers()  # for the report

    def _try_out(self, candidates: Batch) -> None:
        deadline = self.job.deadline
        deadline.trials = len(self.history.trials)
        for trial in self.runner.run(candidates):
            self.history = self.history.with_trial(trial)
            deadline.best = self._best_text()
            if self.job.on_trial is not None:
                self.job.on_trial(trial)

    def _best_text(self) -> str:
        best = next(iter(ranked(self.history.trials, self.job.prefer)), None)
        if best is None:
            return "nothing within the budget yet"
        _, latency, size = best.point
        return f"best {latency:.2f}x latency, {size:.2f}x size"

    def _simplified(self) -> Trial | None:
        """The trial of the simplified model, without any step that loses something."""
        return next(
            (
                trial
                for trial in self.history.trials
                if trial.candidate.is_plain
                and trial.candidate.format.name == "float"
                and trial.status == "measured"
            ),
            None,
        )

    def _is_prunable(self) -> bool:
        """Tell whether any channel of the simplified model can be removed."""
        simplified = self._simplified()
        if simplified is None:
            return False
        try:
            groups = explain_channels(self.runner.model(simplified)).groups
        except OnnxliteError as error:
            logger.info("no channels are removed: %s", error)
            return False
        return any(not group.pinned for group in groups)

    def _training_steps(self) -> int:
        job = self.job
        times = (trial.latency_ms for trial in self.history.trials)
        return training_steps(
            job.original,
            job.digest,
            job.split.calibration,
            job.cache,
            limit_s=job.deadline.limit_s,
            latencies_ms=[latency_ms for latency_ms in times if latency_ms is not None],
        )

    def _sensitive_layers(self) -> tuple[str, ...]:
        """List layers by the noise that INT8 causes in them; none if that is unknown."""
        simplified = self._simplified()
        found = None if simplified is None else self._measured_sensitivity(simplified)
        if found is None:
            return ()
        self.sensitivity = {layer.name: layer.noise_fraction for layer in found.layers}
        return tuple(layer.name for layer in found.ranked)

    def _measured_sensitivity(self, simplified: Trial) -> Sensitivity | None:
        job, runner = self.job, self.runner
        key = sensitivity_key(runner.digest(simplified), job.options.target, job.calibration_digest)
        if (known := job.cache.read(key, Sensitivity)) is not None:
            return known
        try:
            found = sensitivity(
                runner.model(simplified),
                job.split.calibration,
                target=job.options.target,
                confirm=0,
                times=False,
                progress=job.deadline.progress,
            )
        except OnnxliteError as error:
            logger.info("the layers' sensitivity is not known: %s", error)
            return None
        job.cache.write(key, found)
        return found
