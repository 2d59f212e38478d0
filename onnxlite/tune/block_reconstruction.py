"""Block after block is trained to give the teacher's inner values, before the whole is trained.

A block is what lies between two inner values that student and teacher have in common. It gets
the inputs that the blocks trained before give it, and its outputs are compared with the teacher's:
short courses of small networks, which need fewer samples than one of the whole (Li et al. 2021,
BRECQ, with the squared error in the place of the Fisher-weighted one).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.tune.dataset import Row, batches
from onnxlite.tune.losses import Loss
from onnxlite.tune.parameters import Tensors, TrainableConstant
from onnxlite.tune.student import Student

#: Rows that a block is trained on, and bytes of its inputs and outputs, at most.
_ROWS, _BYTES = 1024, 1 << 28
_HELD = 128
#: Learning rates that are tried in turn until one helps.
_RATES = (0.01, 0.002)
#: A block's error on rows held out has to fall by so much.
_GAIN = 0.02
_WARM_UP = 0.1


@dataclass(frozen=True)
class _Block:
    """One value to be met, from the values that are known before."""

    mine: str
    theirs: str
    inputs: tuple[str, ...]
    learned: tuple[TrainableConstant, ...]


@dataclass(frozen=True)
class _Data:
    """Inputs of a block, from the student, and its wanted outputs: float32 of all rows."""

    given: Tensors
    wanted: Tensor

    def part(self, places: Tensor) -> _Data:
        return _Data({k: v[places] for k, v in self.given.items()}, self.wanted[places])

    @property
    def count(self) -> int:
        return len(self.wanted)


def train_blocks(
    student: Student,
    loss: Loss,
    rows: Sequence[Row],
    held: Sequence[Row],
    *,
    steps: int,
    seconds: float,
    size: int,
    seed: int,
    tell: Callable[[int, int], None],
) -> int:
    """Train the blocks of a student one after the other.

    Args:
        student: changed in place.
        loss: names the inner values, and their variances.
        rows: single samples to train on; evenly spread ones are taken.
        held: to decide by, block by block.
        steps: of the optimizer for each block.
        seconds: for all blocks, at most.
        size: samples per step.
        seed: of the order of samples.
        tell: called after each block with its number and how many there are.

    Returns:
        How many blocks came closer to the teacher.
    """
    blocks = _blocks(student, loss, rows[0])
    start, better = time.perf_counter(), 0
    for index, block in enumerate(blocks):
        if time.perf_counter() - start > seconds:
            break
        data = _data(student, block, _spread(rows, _ROWS))
        unseen = _data(student, block, _spread(held, _HELD))
        until = start + seconds * (index + 1) / len(blocks)
        variance = loss.variances[block.theirs]
        better += _train(
            student, block, data, unseen, variance, steps=steps, until=until, size=size, seed=seed
        )
        tell(index + 1, len(blocks))
    return better


def _blocks(student: Student, loss: Loss, row: Row) -> list[_Block]:
    known = list(row.feed)
    taken: set[int] = set()
    found = []
    for mine, theirs in loss.inner:
        inputs, learned = student.part(known, mine)
        new = tuple(item for item in learned if id(item) not in taken)
        if new:
            found.append(_Block(mine, theirs, inputs, new))
        taken.update(map(id, new))
        known.append(mine)
    return found


def _spread(rows: Sequence[Row], most: int) -> Sequence[Row]:
    return rows[:: max(1, -(-len(rows) // most))]


def _data(student: Student, block: _Block, rows: Sequence[Row]) -> _Data:
    """What a block gets and shall give on rows, as far as memory allows."""
    given: dict[str, list[Tensor]] = {name: [] for name in block.inputs}
    wanted: list[Tensor] = []
    held = 0
    with torch.no_grad():
        for parts in batches(rows, 64, True):
            for part in parts:
                found = student.between(part.feed, block.inputs)
                for name, tensor in found.items():
                    given[name].append(tensor)
                wanted.append(part.answers[block.theirs])
                held += sum(t.nbytes for t in (*found.values(), wanted[-1]))
            if held > _BYTES:
                break
    return _Data({name: torch.cat(all_) for name, all_ in given.items()}, torch.cat(wanted))


def _train(
    student: Student,
    block: _Block,
    data: _Data,
    unseen: _Data,
    variance: float,
    *,
    steps: int,
    until: float,
    size: int,
    seed: int,
) -> bool:
    """Train one block; it stays as it was unless its error on `unseen` falls."""
    leaves = [leaf for item in block.learned for leaf in item.leaves]

    def error(part: _Data) -> Tensor:
        found = student.between(part.given, [block.mine])[block.mine]
        return F.mse_loss(found, part.wanted) / variance

    def measured() -> float:
        with torch.no_grad():
            parts = torch.arange(unseen.count).split(64)
            sums = [float(error(unseen.part(places))) * len(places) for places in parts]
        return sum(sums) / unseen.count

    before, old = measured(), [leaf.tensor.detach().clone() for leaf in leaves]
    for rate in _RATES:
        adam = torch.optim.Adam(
            [{"params": [leaf.tensor], "lr": 0.0} for leaf in leaves], betas=(0.9, 0.99)
        )
        order = torch.Generator().manual_seed(seed)
        began, left = time.perf_counter(), max(0.0, until - time.perf_counter()) / 2
        for done in range(steps):
            spent = (time.perf_counter() - began) / left if left else 1.0
            share = max(done / steps, spent)
            if share >= 1:
                break
            factor = min(1.0, share / _WARM_UP + 0.05) * 0.5 * (1 + math.cos(math.pi * share))
            for group, leaf in zip(adam.param_groups, leaves, strict=True):
                group["lr"] = rate * factor * leaf.rate
            adam.zero_grad(set_to_none=True)
            places = torch.randint(data.count, (size,), generator=order)
            error(data.part(places)).backward()
            adam.step()
            with torch.no_grad():
                for item in block.learned:
                    item.project()
        if measured() < before * (1 - _GAIN):
            return True
        with torch.no_grad():
            for leaf, tensor in zip(leaves, old, strict=True):
                leaf.tensor.copy_(tensor)
    return False
