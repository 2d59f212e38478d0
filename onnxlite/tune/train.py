"""The training loop: Adam, a cosine over steps or time, the best state on rows held out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxlite.records import Progress
from onnxlite.tune.block_reconstruction import train_blocks
from onnxlite.tune.checkpoint import INTERVAL_S, Checkpoint, State
from onnxlite.tune.dataset import Batch, Row, batches
from onnxlite.tune.ema import WeightAverage
from onnxlite.tune.losses import Loss
from onnxlite.tune.options import TuneOptions
from onnxlite.tune.student import Student

STEP = "tune"

#: Learning rates, relative to the typical value of each tensor, of which short trials choose.
#: What is badly damaged wants the first, what is almost as good as the teacher the last.
RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
#: Where they begin: at this one; from there they go on while it gets better.
_FIRST_RATE = 0.003
#: Each trial may take this share of the course, and this many steps at most. Fewer than these
#: tell nothing of a higher rate but that it gets worse at first.
_TRIAL_SHARE, _TRIAL_STEPS = 0.08, 80
_EPOCHS = 20
_LEAST_STEPS, _MOST_STEPS = 300, 5000
_WARM_UP = 0.05
_VALIDATIONS = 20
#: Share of the course that blocks are trained for before, each of them with that many steps, which
#: are steps of a part of the network; and the most of these.
_BLOCK_SHARE, _BLOCK_STEPS = 0.2, 400
#: Progress is told in so many parts.
_TOLD = 1000
#: Training ends when so large a part of the course has brought nothing better, but not before
#: the second share: most of what is gained comes while the learning rate falls to nothing.
_PATIENCE, _PATIENT_UNTIL = 0.3, 0.8


@dataclass(frozen=True)
class Course:
    """What training did: steps, learning rate, and the loss on rows held out before and at best."""

    steps: int
    rate: float
    before: float
    best: float


def train(
    student: Student,
    loss: Loss,
    rows: Sequence[Row],
    held: Sequence[Row],
    *,
    apart: bool,
    options: TuneOptions,
    progress: Progress,
) -> Course:
    """Train the student; afterwards it has the state that was best on `held`."""
    start = time.perf_counter()
    total = options.steps or _default_steps(len(rows), options)
    every = max(1, min(total // _VALIDATIONS, 100))
    adam = optimizer_of(student)
    order = torch.Generator().manual_seed(options.seed)
    checkpoint = Checkpoint(options.checkpoint, student.state(), options, len(rows))
    state = checkpoint.read()
    if state is None:
        before = validate(student, loss, held, apart, options.batch)
        if options.blocks and apart and loss.inner:
            _train_blocks(student, loss, rows, held, options, total, before, progress)
        rate = options.lr or _rate_of_trials(
            student, loss, rows, held, apart=apart, options=options, total=total, progress=progress
        )
        best, best_state = validate(student, loss, held, apart, options.batch), student.state()
        best_at, done, seen = 0.0, 0, 0
        average = WeightAverage(best_state, total)
    else:
        start -= state.spent_s
        before, rate, best, best_at = state.before, state.rate, state.best, state.best_at
        done, seen, best_state = state.done, state.seen, state.best_leaves
        student.restore(state.leaves)
        average = WeightAverage(state.average, total)
        adam.load_state_dict(state.optimizer)
        order.set_state(state.order)
    pass_began, written = order.get_state(), time.perf_counter()

    def keep() -> None:
        spent = time.perf_counter() - start
        leaves, optimizer = student.state(), adam.state_dict()
        checkpoint.write(
            State(
                done,
                rate,
                before,
                best,
                best_at,
                spent,
                pass_began,
                seen,
                leaves,
                best_state,
                average.state,
                optimizer,
            )
        )

    def tell(share: float) -> None:
        spent = time.perf_counter() - start
        left = "" if share < _WARM_UP else f", {_duration(spent / share - spent)} left"
        try:
            progress(f"{STEP}: loss {best:.3g}{left}", round(share * _TOLD), _TOLD)
        except BaseException:
            keep()
            raise

    stopped = done >= total
    while not stopped:
        for index, batch in enumerate(batches(rows, options.batch, apart, order)):
            if index < seen:
                continue
            share = _share(done, total, start, options.time_limit)
            if share >= 1:
                stopped = True
                break
            factor = min(1.0, share / _WARM_UP + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
            take_step(student, loss, batch, adam, rate * factor)
            average.add(student)
            done, seen = done + 1, seen + 1
            if done % every == 0 or done == total:
                with average.of(student):
                    found = validate(student, loss, held, apart, options.batch)
                    if found < best:
                        best, best_at, best_state = found, share, student.state()
                tired = share > max(_PATIENT_UNTIL, best_at + _PATIENCE)
                stopped = tired or not math.isfinite(found) or done == total
                if options.checkpoint and time.perf_counter() - written > INTERVAL_S:
                    keep()
                    written = time.perf_counter()
            tell(_share(done, total, start, options.time_limit))
            if stopped:
                break
        seen, pass_began = 0, order.get_state()
    with average.of(student):
        found = validate(student, loss, held, apart, options.batch)
        if found < best:
            best, best_state = found, student.state()
    student.restore(best_state)
    checkpoint.remove()
    return Course(done, rate, before, best)


def _train_blocks(
    student: Student,
    loss: Loss,
    rows: Sequence[Row],
    held: Sequence[Row],
    options: TuneOptions,
    total: int,
    before: float,
    progress: Progress,
) -> None:
    """Train block by block; the student stays as it was unless its outputs come closer."""
    state = student.state()
    train_blocks(
        student,
        loss,
        rows,
        held,
        steps=max(20, min(_BLOCK_STEPS, round(_BLOCK_SHARE * total))),
        seconds=math.inf if options.time_limit is None else _BLOCK_SHARE * options.time_limit,
        size=options.batch,
        seed=options.seed,
        tell=lambda done, count: progress(f"{STEP}: blocks", done, count),
    )
    found = validate(student, loss, held, True, options.batch)
    if not found < before:
        student.restore(state)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes} min" if minutes > 1 else f"{60 * minutes + rest} s"


def gained(before: float, after: float) -> bool:
    """Whether a loss is lower by more than chance and rounding make it."""
    return after < before - max(1e-3 * abs(before), 1e-6)


def validate(student: Student, loss: Loss, held: Sequence[Row], apart: bool, size: int) -> float:
    """The loss of the outputs on rows held out."""
    total, count = 0.0, 0
    with torch.no_grad():
        for parts in batches(held, size, apart):
            for part in parts:
                found = loss.of_outputs(student(part.feed), part.answers, part.labels)
                number = _count(part)
                total, count = total + float(found) * number, count + number
    return total / count


def _rate_of_trials(
    student: Student,
    loss: Loss,
    rows: Sequence[Row],
    held: Sequence[Row],
    *,
    apart: bool,
    options: TuneOptions,
    total: int,
    progress: Progress,
) -> float:
    """The learning rate that is best on rows held out after a few steps; the student stays."""
    state = student.state()
    before = validate(student, loss, held, apart, options.batch)
    count = max(5, min(_TRIAL_STEPS, round(_TRIAL_SHARE * total)))
    seconds = math.inf if options.time_limit is None else _TRIAL_SHARE * options.time_limit
    found: dict[float, float] = {}

    def reached(rate: float) -> float:
        if rate in found:
            return found[rate]
        adam, order = optimizer_of(student), torch.Generator().manual_seed(options.seed)
        done, end = 0, time.perf_counter() + seconds
        while done < count and (time.perf_counter() < end or not done):
            for batch in batches(rows, options.batch, apart, order):
                # Up and down again: what a high rate has learned shows when it has fallen.
                factor = math.sin(math.pi * (done + 0.5) / count)
                told = len(found) * count + done, len(RATES) * count
                progress(f"{STEP}: learning rate {rate:g}", *told)
                take_step(student, loss, batch, adam, rate * factor)
                done += 1
                if done >= count or time.perf_counter() >= end:
                    break
        loss_then = validate(student, loss, held, apart, options.batch)
        student.restore(state)
        found[rate] = loss_then if math.isfinite(loss_then) else math.inf
        return found[rate]

    return _best_rate(reached, before)


def _best_rate(reached: Callable[[float], float], before: float) -> float:
    """The rate to train with, by the loss that short trials reach from `before`.

    The loss has one valley along the rates, so that few of them are tried.
    """
    at = RATES.index(_FIRST_RATE)
    for step in (-1, 1):
        while 0 <= at + step < len(RATES) and reached(RATES[at + step]) < reached(RATES[at]):
            at += step
    # A short trial favours low rates: the next above the highest that gains half as much goes
    # further. Where none gains, the lowest is least likely to spoil anything.
    most = before - reached(RATES[at])
    if most <= 0:
        return RATES[-1]
    half_as_good = at
    while half_as_good and before - reached(RATES[half_as_good - 1]) >= 0.5 * most:
        half_as_good -= 1
    return RATES[max(0, half_as_good - 1)]


def optimizer_of(student: Student) -> torch.optim.Adam:
    """A fresh optimizer of all that a student learns."""
    groups = [{"params": [leaf.tensor], "lr": 0.0} for leaf in student.leaves]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def take_step(
    student: Student, loss: Loss, batch: Sequence[Batch], adam: torch.optim.Adam, rate: float
) -> None:
    """One step of the optimizer on one batch."""
    for group, leaf in zip(adam.param_groups, student.leaves, strict=True):
        group["lr"] = rate * leaf.rate
    adam.zero_grad(set_to_none=True)
    _backward(student, loss, batch)
    adam.step()
    student.project()


def _backward(student: Student, loss: Loss, parts: Sequence[Batch]) -> None:
    number = sum(map(_count, parts))
    taps = [mine for mine, _ in loss.inner]
    for part in parts:
        found: Tensor = loss(student(part.feed, taps), part.answers, part.labels)
        (found * (_count(part) / number)).backward()


def _count(batch: Batch) -> int:
    first = next(iter(batch.answers.values()))
    return max(1, int(first.shape[0])) if first.dim() else 1


def _default_steps(rows: int, options: TuneOptions) -> int:
    if options.time_limit is not None:
        return 1_000_000
    return min(_MOST_STEPS, max(_LEAST_STEPS, _EPOCHS * math.ceil(rows / options.batch)))


def _share(done: int, total: int, start: float, limit: float | None) -> float:
    """How much of the course is behind, by steps or by time, whichever is more."""
    by_time = 0.0 if limit is None else (time.perf_counter() - start) / limit
    return max(done / total, by_time)
