"""The average of what is learned over the last steps, which is steadier than any one of them.

Integers and scales of a model that is almost as good as its teacher are moved more by the noise
of a batch than by what all batches have in common (Polyak & Juditsky 1992; Izmailov et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from onnxlite.tune.student import Student

#: Share of the course that is averaged over, roughly: what is older weighs less than a third.
_SHARE = 0.05


class WeightAverage:
    """An exponential average of all leaves of a student.

    Args:
        state: where it begins.
        steps: of the course.
    """

    def __init__(self, state: Sequence[Tensor], steps: int) -> None:
        self.state = [tensor.clone() for tensor in state]
        self._weight = 1 / max(1.0, _SHARE * steps)

    def add(self, student: Student) -> None:
        """After a step of the optimizer."""
        with torch.no_grad():
            for tensor, leaf in zip(self.state, student.leaves, strict=True):
                tensor.lerp_(leaf.tensor, self._weight)

    @contextmanager
    def of(self, student: Student) -> Iterator[None]:
        """The student has the averages while this lasts, and then what it had before."""
        own = student.state()
        student.restore(self.state)
        try:
            yield
        finally:
            student.restore(own)
