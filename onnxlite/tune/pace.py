"""How long a step of training takes, measured before anything is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.tune.losses import Loss
from onnxlite.tune.rows import Rows, batches
from onnxlite.tune.student import Student
from onnxlite.tune.train import optimizer_of, take_step

#: The first step is slower than others: memory is new, and kernels are chosen.
_STEPS = 4


def step_seconds(model: ir.Model, samples: SamplesLike, *, batch: int = 32) -> float:
    """The seconds of one step of tuning a model that is not compressed yet.

    Args:
        model: it is not changed.
        samples: of its inputs; a few are used.
        batch: samples in a step.

    Raises:
        UnsupportedError: torch cannot compute the model, so that it cannot be tuned.
        SamplesError: the samples do not fit the model.
    """
    reference = clone(model)
    normalize(reference)
    stream = Samples(samples, input_specs(reference), batch=1, limit=2 * batch)
    rows = Rows(reference, stream, [], labels=None, vary=False, seed=0, threads=None)
    student = Student(model, reference)
    adam = optimizer_of(student)
    loss = Loss([], {}, [], {}, custom=_energy)
    (first, *_) = batches([*rows.training, *rows.held], batch, rows.apart)
    seconds = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        take_step(student, loss, first, adam, rate=0.0)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _energy(found: Mapping[str, Tensor], _wanted: Mapping[str, Tensor]) -> Tensor:
    """Any loss will do that all of the model has a part in."""
    parts = [value.square().mean() for value in found.values() if value.is_floating_point()]
    return torch.stack(parts).sum()
