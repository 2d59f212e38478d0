"""One training task: a student, its data and its loss; steps, validation, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxlite.records import no_progress
from onnxlite.tune.dataset import Batch, Dataset
from onnxlite.tune.losses import Loss
from onnxlite.tune.options import Tune
from onnxlite.tune.student import Student

#: Fraction of the training that is averaged over, roughly: what is older weighs less than a
#: third.
_AVERAGED = 0.05


@dataclass(frozen=True)
class Distillation:
    """A student with everything that it is trained with.

    Attributes:
        student: trained in place.
        loss: compares it with the teacher.
        data: the teacher's answers.
        options: of the training.
        progress: called as the training goes on.
    """

    student: Student
    loss: Loss
    data: Dataset
    options: Tune
    progress: Callable[[str, int, int], None] = no_progress

    def batches(self, order: torch.Generator) -> Iterator[list[Batch]]:
        """Yield the training rows once, in random order."""
        return self.data.batches(self.data.training, self.options.batch_size, order)

    def optimizer(self) -> torch.optim.Adam:
        """Make a fresh optimizer of everything that the student learns."""
        groups = [{"params": [item.tensor], "lr": 0.0} for item in self.student.tensors]
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def step(self, adam: torch.optim.Adam, batch: Sequence[Batch], rate: float) -> None:
        """Take one step of the optimizer on one batch."""
        for group, item in zip(adam.param_groups, self.student.tensors, strict=True):
            group["lr"] = rate * item.step_size
        adam.zero_grad(set_to_none=True)
        self._backward(batch)
        adam.step()
        self.student.project()

    def _backward(self, parts: Sequence[Batch]) -> None:
        total = sum(map(_row_count, parts))
        taps = [mine for mine, _ in self.loss.inner]
        for part in parts:
            found: Tensor = self.loss(self.student(part.feed, taps), part.answers, part.labels)
            (found * (_row_count(part) / total)).backward()

    def validate(self) -> float:
        """Return the loss of the outputs on the rows held out."""
        total, count = 0.0, 0
        with torch.no_grad():
            for parts in self.data.batches(self.data.held_out, self.options.batch_size):
                for part in parts:
                    outputs = self.student(part.feed)
                    found = self.loss.of_outputs(outputs, part.answers, part.labels)
                    number = _row_count(part)
                    total, count = total + float(found) * number, count + number
        return total / count

    def seconds(self, fraction: float) -> float:
        """Return a fraction of the time limit; infinite without one."""
        limit = self.options.time_limit_s
        return math.inf if limit is None else fraction * limit


def _row_count(batch: Batch) -> int:
    first = next(iter(batch.answers.values()))
    return max(1, int(first.shape[0])) if first.dim() else 1


class WeightAverage:
    """Exponential moving average (EMA) of everything that a student learns.

    It is steadier than any one state: integers and scales of a model that is almost as good as
    its teacher are moved more by the noise of a batch than by what all batches have in common
    (Polyak & Juditsky 1992; Izmailov et al. 2018).

    Args:
        state: where it begins.
        steps: of the training.
    """

    def __init__(self, state: Sequence[Tensor], steps: int) -> None:
        self.state = [tensor.clone() for tensor in state]
        self._weight = 1 / max(1.0, _AVERAGED * steps)

    def add(self, student: Student) -> None:
        """Take the student's state after a step of the optimizer."""
        with torch.no_grad():
            for tensor, item in zip(self.state, student.tensors, strict=True):
                tensor.lerp_(item.tensor, self._weight)

    @contextmanager
    def applied_to(self, student: Student) -> Iterator[None]:
        """Give the student the averages within the context, and then its own state back."""
        own = student.state()
        student.restore(self.state)
        try:
            yield
        finally:
            student.restore(own)
