"""The training loop: Adam, a cosine over steps or time, the best state on rows held out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxlite.records import Progress
from onnxlite.tune.losses import Loss
from onnxlite.tune.options import TuneOptions
from onnxlite.tune.rows import Batch, Row, batches
from onnxlite.tune.student import Student

STEP = "tune"

#: Learning rate relative to the typical value of each tensor.
DEFAULT_LR = 0.01
_EPOCHS = 20
_LEAST_STEPS, _MOST_STEPS = 300, 5000
_WARM_UP = 0.05
_VALIDATIONS = 20
#: Validations in a row without a better one, after which training ends; but the high learning
#: rate of the first part makes even a student worse that ends better.
_PATIENCE, _PATIENT_UNTIL = 5, 0.6


@dataclass(frozen=True)
class Course:
    """What training did: steps taken, and the loss on rows held out before and at its best."""

    steps: int
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
    rate = DEFAULT_LR if options.lr is None else options.lr
    groups = [{"params": [leaf.tensor], "lr": 0.0} for leaf in student.leaves]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
    total = options.steps or _default_steps(len(rows), options)
    order = torch.Generator().manual_seed(options.seed)
    best_state, before = student.state(), validate(student, loss, held, apart, options.batch)
    best, behind, done, start = before, 0, 0, time.perf_counter()
    every = max(1, min(total // _VALIDATIONS, 100))
    stopped = False
    while done < total and not stopped:
        for batch in batches(rows, options.batch, apart, order):
            share = _share(done, total, start, options.time_limit)
            if share >= 1 or done >= total:
                done = total if share >= 1 and done < total else done
                break
            factor = min(1.0, share / _WARM_UP + 0.02) * 0.5 * (1 + math.cos(math.pi * share))
            for group, leaf in zip(adam.param_groups, student.leaves, strict=True):
                group["lr"] = rate * leaf.rate * factor
            adam.zero_grad(set_to_none=True)
            _backward(student, loss, batch)
            adam.step()
            student.project()
            done += 1
            progress(STEP, done, total)
            if done % every == 0 or done == total:
                found = validate(student, loss, held, apart, options.batch)
                if found < best:
                    best, behind, best_state = found, 0, student.state()
                else:
                    behind += 1
                tired = behind >= _PATIENCE and share > _PATIENT_UNTIL
                stopped = tired or not math.isfinite(found)
                if stopped:
                    break
    found = validate(student, loss, held, apart, options.batch)
    if found < best:
        best, best_state = found, student.state()
    student.restore(best_state)
    return Course(done, before, best)


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
