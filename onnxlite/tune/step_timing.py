"""Time of one training step, measured before anything is trained."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.errors import UnsupportedError
from onnxlite.inputs import input_specs
from onnxlite.model import clone
from onnxlite.normalize import normalize
from onnxlite.samples import Samples, SamplesLike
from onnxlite.tune.dataset import make_dataset
from onnxlite.tune.losses import Loss
from onnxlite.tune.optimizer import Distillation
from onnxlite.tune.options import Tune
from onnxlite.tune.student import Student

#: The first step is slower than others: memory is new, and kernels are chosen. Where that alone
#: takes long, it is enough.
_STEPS, _LONG_S = 4, 2.0


def step_seconds(model: ir.Model, samples: SamplesLike, *, batch: int = 32) -> float:
    """Measure the seconds of one step of tuning a model that is not compressed yet.

    Args:
        model: it is not changed.
        samples: of its inputs; a few are used.
        batch: samples in a step.

    Raises:
        UnsupportedError: torch cannot compute the model, or nothing in it can be learned.
        SamplesError: the samples do not fit the model.
    """
    reference = clone(model)
    normalize(reference)
    stream = Samples(samples, input_specs(reference), batch_size=1, limit=2 * batch)
    data = make_dataset(reference, stream, [])
    student = Student(model, reference)
    if not student.tensors:
        raise UnsupportedError("the model has no constant that can be learned")
    loss = Loss([], {}, [], {}, custom=_energy)
    task = Distillation(student, loss, data, Tune(batch_size=batch))
    adam = task.optimizer()
    (first, *_) = data.batches([*data.training, *data.held_out], batch)
    seconds = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        task.step(adam, first, rate=0.0)
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > _LONG_S:
            break
    return statistics.median(seconds[1:] or seconds)


def _energy(found: Mapping[str, Tensor], _wanted: Mapping[str, Tensor]) -> Tensor:
    """Return a loss that depends on all of the model."""
    parts = [value.float().square().mean() for value in found.values() if value.requires_grad]
    if not parts:
        raise UnsupportedError("no output of the model has a gradient: it cannot be trained")
    return torch.stack(parts).sum()
