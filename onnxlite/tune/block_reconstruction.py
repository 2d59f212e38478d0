"""Block reconstruction: train block after block to meet the teacher's inner values.

A block is what lies between two inner values that student and teacher have in common. It gets
the inputs that the blocks trained before give it, and its outputs are compared with the teacher's:
short trainings of small networks, which need fewer samples than one of the whole (Li et al. 2021,
BRECQ, with the squared error in the place of the Fisher-weighted one).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.dataset import Row, batches
from onnxlite.tune.learning_rate import cosine_schedule
from onnxlite.tune.optimizer import Distillation
from onnxlite.tune.parameters import Tensors, TrainableConstant
from onnxlite.tune.student import Student

#: Fraction of the training that blocks are trained for before, each of them with that many steps,
#: which are steps of a part of the network; and the least and most of these.
_FRACTION, _MIN_STEPS, _MAX_STEPS = 0.2, 20, 400
#: Rows that a block is trained on, and bytes of its inputs and outputs, at most.
_MAX_ROWS, _MAX_BYTES = 1024, 1 << 28
_MAX_HELD_OUT = 128
#: Rows that are computed at once.
_CHUNK = 64
#: Learning rates that are tried in turn until one helps.
_RATES = (0.01, 0.002)
#: A block's error on held-out rows has to fall by this fraction.
_MIN_GAIN = 0.02
_WARM_UP, _WARM_UP_START = 0.1, 0.05


def train_blocks(task: Distillation, steps: int, before: float) -> None:
    """Train the blocks of the student, in place, one after the other.

    The student stays as it was unless its outputs come closer to the teacher's.

    Args:
        task: what is trained.
        steps: of the whole training.
        before: loss on the rows held out.
    """
    state = task.student.state()
    steps = max(_MIN_STEPS, min(_MAX_STEPS, round(_FRACTION * steps)))
    blocks = _blocks(task)
    start, seconds = time.perf_counter(), task.seconds(_FRACTION)
    for index, block in enumerate(blocks):
        if time.perf_counter() - start > seconds:
            break
        until = start + seconds * (index + 1) / len(blocks)
        _BlockTraining(task, block, steps, until).run()
        task.progress("tune: blocks", index + 1, len(blocks))
    if not task.validate() < before:
        task.student.restore(state)


@dataclass(frozen=True)
class _Block:
    """A value of the student to be met, from the values that are known before.

    Attributes:
        mine: the student's value.
        theirs: the teacher's value.
        inputs: values of the student that it is computed from.
        constants: what is learned on the way and in no block before.
    """

    mine: str
    theirs: str
    inputs: tuple[str, ...]
    constants: tuple[TrainableConstant, ...]


def _blocks(task: Distillation) -> list[_Block]:
    known = list(task.data.training[0].feed)
    taken: set[int] = set()
    found = []
    for mine, theirs in task.loss.inner:
        inputs, constants = task.student.part(known, mine)
        new = tuple(item for item in constants if id(item) not in taken)
        if new:
            found.append(_Block(mine, theirs, inputs, new))
        taken.update(map(id, new))
        known.append(mine)
    return found


@dataclass(frozen=True)
class _BlockData:
    """Inputs of a block, from the student, and its target outputs: float32 of all rows."""

    inputs: Tensors
    target: Tensor

    def part(self, places: Tensor) -> _BlockData:
        return _BlockData({k: v[places] for k, v in self.inputs.items()}, self.target[places])

    @property
    def count(self) -> int:
        return len(self.target)


def _block_data(student: Student, block: _Block, rows: Sequence[Row]) -> _BlockData:
    """Compute a block's data on rows, as far as memory allows."""
    inputs: dict[str, list[Tensor]] = {name: [] for name in block.inputs}
    target: list[Tensor] = []
    nbytes = 0
    with torch.no_grad():
        for parts in batches(rows, _CHUNK, batchable=True):
            for part in parts:
                found = student.between(part.feed, block.inputs)
                for name, tensor in found.items():
                    inputs[name].append(tensor)
                target.append(part.answers[block.theirs])
                nbytes += sum(t.nbytes for t in (*found.values(), target[-1]))
            if nbytes > _MAX_BYTES:
                break
    return _BlockData({name: torch.cat(all_) for name, all_ in inputs.items()}, torch.cat(target))


def _spread(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """Take evenly spread rows."""
    return rows[:: max(1, -(-len(rows) // most))]


class _BlockTraining:
    """Training of one block.

    Args:
        task: the student and its data.
        block: to be trained.
        steps: of the optimizer, for each learning rate.
        until: time of `perf_counter` to stop at.
    """

    def __init__(self, task: Distillation, block: _Block, steps: int, until: float) -> None:
        self._student, self._options, self._block = task.student, task.options, block
        self._steps, self._until = steps, until
        self._data = _block_data(task.student, block, _spread(task.data.training, _MAX_ROWS))
        held_out = _spread(task.data.held_out, _MAX_HELD_OUT)
        self._held_out = _block_data(task.student, block, held_out)
        self._variance = task.loss.variances[block.theirs]
        self._tensors = [tensor for item in block.constants for tensor in item.tensors]

    def run(self) -> bool:
        """Train; the block stays as it was unless its error on held-out rows falls."""
        before = self._validate()
        old = [item.tensor.detach().clone() for item in self._tensors]
        for rate in _RATES:
            self._train(rate)
            if self._validate() < before * (1 - _MIN_GAIN):
                return True
            with torch.no_grad():
                for item, tensor in zip(self._tensors, old, strict=True):
                    item.tensor.copy_(tensor)
        return False

    def _train(self, rate: float) -> None:
        adam = torch.optim.Adam(
            [{"params": [item.tensor], "lr": 0.0} for item in self._tensors], betas=(0.9, 0.99)
        )
        order = torch.Generator().manual_seed(self._options.seed)
        began = time.perf_counter()
        left = max(0.0, self._until - began) / 2
        for done in range(self._steps):
            by_time = (time.perf_counter() - began) / left if left else 1.0
            fraction = max(done / self._steps, by_time)
            if fraction >= 1:
                break
            factor = cosine_schedule(fraction, _WARM_UP, _WARM_UP_START)
            for group, item in zip(adam.param_groups, self._tensors, strict=True):
                group["lr"] = rate * factor * item.step_size
            adam.zero_grad(set_to_none=True)
            size = (self._options.batch_size,)
            places = torch.randint(self._data.count, size, generator=order)
            self._error(self._data.part(places)).backward()
            adam.step()
            with torch.no_grad():
                for constant in self._block.constants:
                    constant.project()

    def _error(self, part: _BlockData) -> Tensor:
        found = self._student.between(part.inputs, [self._block.mine])[self._block.mine]
        return F.mse_loss(found, part.target) / self._variance

    def _validate(self) -> float:
        with torch.no_grad():
            parts = torch.arange(self._held_out.count).split(_CHUNK)
            errors = [
                float(self._error(self._held_out.part(places))) * len(places) for places in parts
            ]
        return sum(errors) / self._held_out.count
