"""Dataset of tuning: samples with the teacher's answers, held-out rows, and batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.errors import SamplesError
from onnxlite.holdout import EveryKth
from onnxlite.inputs import Feed, InputSpec, separated
from onnxlite.records import HoldOut
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Samples
from onnxlite.tune.augmentation import augment, can_augment
from onnxlite.tune.parameters import Tensors
from onnxlite.tune.torch_graph import torch_feed

#: One row of so many is held out, and about so many rows at most.
_HELD_OUT_EVERY, _MAX_HELD_OUT = 5, 512
#: Bytes of the teacher's inner values that are kept for all rows.
_INNER_BYTES = 1 << 29
_MAX_INNER = 8
#: Augmented rows: so many for each real one, unless rows or bytes are enough.
_COPIES, _ENOUGH_ROWS, _AUGMENTED_BYTES = 4, 20_000, 1 << 29
#: Rows that the teacher answers at once.
_TEACHER_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One sample, or one whole feed where samples cannot be separated.

    Attributes:
        feed: the inputs.
        answers: the teacher's outputs and inner values.
        label: class of the sample, if known.
    """

    feed: Tensors
    answers: Tensors
    label: int | None = None

    @property
    def form(self) -> tuple[object, ...]:
        """Names, shapes and types; rows of equal form can be batched."""
        tensors = (*self.feed.items(), *self.answers.items())
        return tuple((name, tuple(t.shape[1:]), t.dtype) for name, t in tensors)


@dataclass(frozen=True)
class Batch:
    """Rows of one form, concatenated."""

    feed: Tensors
    answers: Tensors
    labels: Tensor | None


@dataclass(frozen=True)
class Dataset:
    """All samples with the teacher's answers.

    Attributes:
        training: rows to train on.
        held_out: rows to validate on, which nothing is trained on.
        outputs: names of the teacher's outputs.
        inner: names of the teacher's inner values that the answers hold.
        count: number of real rows.
        batchable: rows are single samples, so that they can be batched.
        rule: that decided which rows are held out.
    """

    training: list[Row]
    held_out: list[Row]
    outputs: list[str]
    inner: list[str]
    count: int
    batchable: bool
    rule: str = ""

    @property
    def hold_out(self) -> HoldOut:
        """Record of the rows held out."""
        return HoldOut(rule=self.rule, feeds=len(self.held_out))

    def batches(
        self, rows: Sequence[Row], size: int, order: torch.Generator | None = None
    ) -> Iterator[list[Batch]]:
        """Yield rows of this dataset once, see `batches`."""
        return batches(rows, size, self.batchable, order)


def make_dataset(
    teacher: ir.Model,
    samples: Samples,
    inner: Sequence[str],
    *,
    labels: Sequence[int] | None = None,
    augmented: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> Dataset:
    """Run the teacher once on all samples.

    Args:
        teacher: the reference model.
        samples: of the teacher's inputs.
        inner: values of the teacher that are wanted besides its outputs, as far as memory
            allows; evenly spread ones are taken.
        labels: class of each sample.
        augmented: add mixed, shifted and mirrored inputs to train on, where inputs allow it.
        seed: of those.
        threads: of ONNX Runtime.

    Raises:
        SamplesError: there are fewer than two samples.
    """
    source = _Teacher(teacher, samples, threads)
    rows = source.rows
    if len(rows) < 2:
        raise SamplesError("tuning needs two samples at least: one of them is held out")
    every = max(_HELD_OUT_EVERY, len(rows) // _MAX_HELD_OUT)
    rule = EveryKth(every, minimum=2)
    held_out = rule.mask(len(rows))
    real = list(compress(rows, ~held_out))
    extra = _augmented_count(real) if augmented and source.batchable and labels is None else 0
    source.keep(inner, len(rows) + extra)
    classes = [None] * len(rows) if labels is None else list(labels)
    training = source.answer(real, list(compress(classes, ~held_out)))
    training += source.answer(augment(real, extra, seed=seed), [None] * extra)
    return Dataset(
        training=training,
        held_out=source.answer(compress(rows, held_out), list(compress(classes, held_out))),
        outputs=source.outputs,
        inner=source.inner,
        count=len(rows),
        batchable=source.batchable,
        rule=str(rule),
    )


class _Teacher:
    """The teacher and the rows that it answers."""

    def __init__(self, model: ir.Model, samples: Samples, threads: int | None) -> None:
        feeds, specs = list(samples), samples.inputs
        self._model, self._threads = model, threads
        self.batchable = _separated(feeds[0], specs) is not None and self._gives_rows(feeds, specs)
        separated = [row for feed in feeds for row in _separated(feed, specs) or [feed]]
        self.rows: Sequence[Feed] = separated if self.batchable else feeds
        self.outputs = [value.name or "" for value in model.graph.outputs]
        self.inner: list[str] = []

    def keep(self, inner: Sequence[str], count: int) -> None:
        """Choose the inner values that answers of `count` rows shall hold."""
        self.inner = self._affordable(inner, count)
        self._session = Session(tapped(self._model, self.inner), threads=self._threads)
        self._wanted = {*self.outputs, *self.inner}

    def answer(self, feeds: Iterable[Feed], labels: Sequence[int | None]) -> list[Row]:
        """Run the teacher on feeds; those of one form that follow each other run together."""
        answered = _answered(self._session, feeds, self._wanted, self.batchable)
        return [
            Row(torch_feed(feed), torch_feed(answers), None if label is None else int(label))
            for (feed, answers), label in zip(answered, labels, strict=True)
        ]

    def _gives_rows(self, feeds: Sequence[Feed], specs: Sequence[InputSpec]) -> bool:
        """Tell whether every output has a row per sample."""
        single = (_separated(feeds[0], specs) or [])[0]
        pair = {name: np.concatenate([array, array]) for name, array in single.items()}
        session = Session(self._model, threads=self._threads)
        one, two = session.run(single), session.run(pair)
        return all(
            getattr(one[name], "ndim", 0) and len(one[name]) == 1 and len(two[name]) == 2
            for name in one
        )

    def _affordable(self, inner: Sequence[str], count: int) -> list[str]:
        """Choose evenly spread inner values whose rows fit into memory."""
        if not inner:
            return []
        session = Session(tapped(self._model, inner), threads=self._threads)
        found = session.run(self.rows[0])
        each = _INNER_BYTES / count / _MAX_INNER
        fit = [
            name
            for name in inner
            if name in found
            and isinstance(found[name], np.ndarray)
            and found[name].dtype == np.float32
            and found[name].nbytes <= each
            and (not self.batchable or (found[name].ndim > 1 and len(found[name]) == 1))
        ]
        if len(fit) <= _MAX_INNER:
            return fit
        places = np.linspace(0, len(fit) - 1, _MAX_INNER).round().astype(int)
        return [fit[place] for place in places]


def _answered(
    session: Session, feeds: Iterable[Feed], wanted: Collection[str], batchable: bool
) -> Iterator[tuple[Feed, Feed]]:
    """Yield feeds with the teacher's answers."""

    def run(some: list[Feed]) -> Iterator[tuple[Feed, Feed]]:
        if len(some) == 1:
            yield some[0], {k: v for k, v in session.run(some[0]).items() if k in wanted}
            return
        together = {name: np.concatenate([feed[name] for feed in some]) for name in some[0]}
        answers = session.run(together)
        for index, feed in enumerate(some):
            yield feed, {name: answers[name][index : index + 1] for name in wanted}

    waiting: list[Feed] = []
    for feed in feeds:
        full = len(waiting) == _TEACHER_BATCH
        if waiting and (not batchable or full or _shapes(feed) != _shapes(waiting[0])):
            yield from run(waiting)
            waiting = []
        waiting.append(feed)
    if waiting:
        yield from run(waiting)


def _shapes(feed: Feed) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, array.shape) for name, array in feed.items()]


def batches(
    rows: Sequence[Row], size: int, batchable: bool, order: torch.Generator | None = None
) -> Iterator[list[Batch]]:
    """Yield all rows once, `size` at a time; those of different forms as several batches.

    Args:
        rows: what is batched.
        size: rows at a time.
        batchable: whether rows can be concatenated.
        order: shuffles them; None keeps the order.
    """
    places = list(range(len(rows)))
    if order is not None:
        places = torch.randperm(len(rows), generator=order).tolist()
    for start in range(0, len(places), size):
        chosen = [rows[place] for place in places[start : start + size]]
        if not batchable:
            yield [_concatenated([row]) for row in chosen]
            continue
        forms: dict[tuple[object, ...], list[Row]] = {}
        for row in chosen:
            forms.setdefault(row.form, []).append(row)
        yield [_concatenated(group) for group in forms.values()]


def _concatenated(rows: Sequence[Row]) -> Batch:
    labels = [row.label for row in rows if row.label is not None]
    if len(rows) == 1:
        feed, answers = rows[0].feed, rows[0].answers
    else:
        feed = {name: torch.cat([row.feed[name] for row in rows]) for name in rows[0].feed}
        answers = {n: torch.cat([row.answers[n] for row in rows]) for n in rows[0].answers}
    return Batch(feed, answers, torch.tensor(labels) if labels else None)


def _separated(feed: Feed, specs: Sequence[InputSpec]) -> list[Feed] | None:
    """Return the samples of a feed, None where an input has no free batch axis in front."""
    in_front = all(spec.shape and spec.batch_axis == 0 for spec in specs)
    return separated(feed, specs) if in_front else None


def _augmented_count(real: Sequence[Feed]) -> int:
    """Rows that are added: up to four times as many as there are, as far as memory allows."""
    if not can_augment(real[0]):
        return 0
    bytes_each = sum(array.nbytes for array in real[0].values())
    room = min(_ENOUGH_ROWS, _AUGMENTED_BYTES // bytes_each) - len(real)
    return max(0, min(_COPIES * len(real), room))
