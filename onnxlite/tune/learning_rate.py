"""Learning rate: its schedule, and the choice by short trials.

Rates are relative to the typical value of each tensor. What is badly damaged needs a high one,
what is almost as good as the teacher a low one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from onnxlite.tune.optimizer import Distillation

#: Learning rates of which short trials choose.
RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
#: The first one tried; from there they go on while it gets better.
_FIRST_RATE = 0.003
#: Each trial may take this fraction of the training, and this many steps at most. Fewer than
#: these show no more of a higher rate than that it gets worse at first.
_TRIAL_FRACTION, _TRIAL_STEPS, _MIN_TRIAL_STEPS = 0.08, 80, 5


def cosine_schedule(fraction: float, warm_up: float, start: float) -> float:
    """Return the factor of the learning rate when `fraction` of the training is done.

    Args:
        fraction: from 0 to 1.
        warm_up: fraction within which the rate rises linearly.
        start: factor at the beginning.
    """
    return min(1.0, fraction / warm_up + start) * 0.5 * (1 + math.cos(math.pi * fraction))


def choose_rate(task: Distillation, steps: int) -> float:
    """Choose the learning rate that is best on held-out rows after a few steps.

    The student stays as it is.

    Args:
        task: what is trained.
        steps: of the whole training.
    """
    state, before = task.student.state(), task.validate()
    count = max(_MIN_TRIAL_STEPS, min(_TRIAL_STEPS, round(_TRIAL_FRACTION * steps)))
    found: dict[float, float] = {}

    def reached(rate: float) -> float:
        if rate not in found:
            _run_trial(task, rate, count, len(found) * count)
            loss = task.validate()
            task.student.restore(state)
            found[rate] = loss if math.isfinite(loss) else math.inf
        return found[rate]

    return best_rate(reached, before)


def _run_trial(task: Distillation, rate: float, count: int, done_before: int) -> None:
    """Train for a few steps."""
    adam, order = task.optimizer(), torch.Generator().manual_seed(task.options.seed)
    done, end = 0, time.perf_counter() + task.seconds(_TRIAL_FRACTION)
    while done < count and (time.perf_counter() < end or not done):
        for batch in task.batches(order):
            # Up and down again: what a high rate has learned shows when it has fallen.
            factor = math.sin(math.pi * (done + 0.5) / count)
            stage = f"tune: learning rate {rate:g}"
            task.progress(stage, done_before + done, len(RATES) * count)
            task.step(adam, batch, rate * factor)
            done += 1
            if done >= count or time.perf_counter() >= end:
                break


def best_rate(reached: Callable[[float], float], before: float) -> float:
    """Choose the rate to train with by the loss that short trials reach from `before`.

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
