"""Training loop: Adam, a cosine over steps or time, the best state on held-out rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from onnxlite.tune.block_reconstruction import train_blocks
from onnxlite.tune.checkpoint import INTERVAL_S, Checkpoint, State
from onnxlite.tune.dataset import Batch
from onnxlite.tune.learning_rate import choose_rate, cosine_schedule
from onnxlite.tune.optimizer import Distillation, WeightAverage

STEP = "tune"

_EPOCHS = 20
_MIN_STEPS, _MAX_STEPS = 300, 5000
#: Steps where only time limits the training.
_UNLIMITED_STEPS = 1_000_000
_WARM_UP, _WARM_UP_START = 0.05, 0.02
_VALIDATIONS, _MAX_STEPS_BETWEEN = 20, 100
#: Progress has so many parts.
_PROGRESS_PARTS = 1000
#: Training ends when so large a fraction of it has brought nothing better, but not before the
#: second fraction: most of what is gained comes while the learning rate falls to nothing.
_PATIENCE, _PATIENT_UNTIL = 0.3, 0.8


@dataclass(frozen=True)
class Training:
    """Outcome of training.

    Attributes:
        steps: that were taken.
        rate: the learning rate.
        before: loss on the rows held out at the start.
        best: the same for the state that was kept.
    """

    steps: int
    rate: float
    before: float
    best: float


def train(task: Distillation) -> Training:
    """Train the student in place; it ends with the state that was best on held-out rows."""
    run = _Run(task)
    while not run.finished:
        run.one_pass()
    return run.finish()


class _Run:
    """State of one training, which a checkpoint can restore."""

    def __init__(self, task: Distillation) -> None:
        self._task, self._options, self._student = task, task.options, task.student
        self._started = time.perf_counter()
        rows = len(task.data.training)
        self._total = self._options.steps or self._default_steps(rows)
        self._validate_every = max(1, min(self._total // _VALIDATIONS, _MAX_STEPS_BETWEEN))
        self._adam = task.optimizer()
        self._order = torch.Generator().manual_seed(self._options.seed)
        self._checkpoint = Checkpoint(
            self._options.checkpoint, self._student.state(), self._options, rows
        )
        state = self._checkpoint.read()
        if state is None:
            self._begin()
        else:
            self._resume(state)
        self._pass_began, self._written = self._order.get_state(), time.perf_counter()
        self.finished = self._done >= self._total

    def _default_steps(self, rows: int) -> int:
        if self._options.time_limit_s is not None:
            return _UNLIMITED_STEPS
        epoch = math.ceil(rows / self._options.batch_size)
        return min(_MAX_STEPS, max(_MIN_STEPS, _EPOCHS * epoch))

    def _begin(self) -> None:
        """Train block by block, choose the learning rate, and take the first measures."""
        task, loss = self._task, self._task.loss
        self._before = task.validate()
        if self._options.blocks and task.data.batchable and loss.inner:
            train_blocks(task, self._total, self._before)
        self._rate = self._options.lr or choose_rate(task, self._total)
        self._best, self._best_state = task.validate(), self._student.state()
        self._best_at, self._done, self._seen = 0.0, 0, 0
        self._average = WeightAverage(self._best_state, self._total)

    def _resume(self, state: State) -> None:
        """Go on from a checkpoint."""
        self._started -= state.spent_s
        self._before, self._rate = state.before, state.rate
        self._best, self._best_at = state.best, state.best_at
        self._done, self._seen, self._best_state = state.done, state.seen, state.best_tensors
        self._student.restore(state.tensors)
        self._average = WeightAverage(state.average, self._total)
        self._adam.load_state_dict(state.optimizer)
        self._order.set_state(state.order)

    @property
    def _fraction(self) -> float:
        """Fraction of the training that is done, by steps or by time, whichever is more."""
        limit = self._options.time_limit_s
        by_time = 0.0 if limit is None else self._spent / limit
        return max(self._done / self._total, by_time)

    @property
    def _spent(self) -> float:
        return time.perf_counter() - self._started

    def one_pass(self) -> None:
        """Train on all rows once, or until the training is finished."""
        for index, batch in enumerate(self._task.batches(self._order)):
            if index < self._seen:
                continue
            self._one_step(batch)
            if self.finished:
                return
        self._seen, self._pass_began = 0, self._order.get_state()

    def _one_step(self, batch: Sequence[Batch]) -> None:
        fraction = self._fraction
        if fraction >= 1:
            self.finished = True
            return
        factor = cosine_schedule(fraction, _WARM_UP, _WARM_UP_START)
        self._task.step(self._adam, batch, self._rate * factor)
        self._average.add(self._student)
        self._done, self._seen = self._done + 1, self._seen + 1
        if self._done % self._validate_every == 0 or self._done == self._total:
            self._validate(fraction)
        self._report()

    def _validate(self, fraction: float) -> None:
        """Measure the averaged state; end the training where it does not improve any more."""
        found = self._measure(fraction)
        tired = fraction > max(_PATIENT_UNTIL, self._best_at + _PATIENCE)
        self.finished = tired or not math.isfinite(found) or self._done == self._total
        if self._options.checkpoint and time.perf_counter() - self._written > INTERVAL_S:
            self._save()
            self._written = time.perf_counter()

    def _measure(self, fraction: float) -> float:
        """Return the loss of the averaged state, and keep it if it is the best so far."""
        with self._average.applied_to(self._student):
            found = self._task.validate()
            if found < self._best:
                self._best, self._best_at = found, fraction
                self._best_state = self._student.state()
        return found

    def _report(self) -> None:
        """Call the progress; write a checkpoint if it raises."""
        fraction = self._fraction
        left = ""
        if fraction >= _WARM_UP:
            left = f", {_duration(self._spent / fraction - self._spent)} left"
        done = round(fraction * _PROGRESS_PARTS)
        try:
            self._task.progress(f"{STEP}: loss {self._best:.3g}{left}", done, _PROGRESS_PARTS)
        except BaseException:
            self._save()
            raise

    def _save(self) -> None:
        self._checkpoint.write(
            State(
                done=self._done,
                rate=self._rate,
                before=self._before,
                best=self._best,
                best_at=self._best_at,
                spent_s=self._spent,
                order=self._pass_began,
                seen=self._seen,
                tensors=self._student.state(),
                best_tensors=self._best_state,
                average=self._average.state,
                optimizer=self._adam.state_dict(),
            )
        )

    def finish(self) -> Training:
        """Give the student the best state and remove the checkpoint."""
        self._measure(self._fraction)
        self._student.restore(self._best_state)
        self._checkpoint.remove()
        return Training(self._done, self._rate, self._before, self._best)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes} min" if minutes > 1 else f"{60 * minutes + rest} s"
