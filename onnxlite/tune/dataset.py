"""Samples with the teacher's answers, one row each, and batches of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.errors import SamplesError
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Feed, InputSpec, Samples, feed_size, input_specs
from onnxlite.tune.augmentation import augment, can_augment
from onnxlite.tune.parameters import Tensors
from onnxlite.tune.torch_graph import torch_feed

#: Bytes of the teacher's inner values that are kept for all rows.
_INNER_BYTES = 1 << 29
_MAX_INNER = 8
#: Rows that are made up: so many for each real one, unless rows or bytes are enough.
_COPIES, _ENOUGH_ROWS, _VARIED_BYTES = 4, 20_000, 1 << 29
#: Rows that the teacher answers at once.
_AT_ONCE = 32


@dataclass(frozen=True)
class Row:
    """One sample, or one whole feed where samples cannot be taken apart.

    Attributes:
        feed: the inputs.
        answers: what the teacher gives, outputs and inner values.
        label: class of the sample, if known.
    """

    feed: Tensors
    answers: Tensors
    label: int | None = None

    @property
    def form(self) -> tuple[object, ...]:
        """Rows of equal form can be put together."""
        tensors = (*self.feed.items(), *self.answers.items())
        return tuple((name, tuple(t.shape[1:]), t.dtype) for name, t in tensors)


@dataclass(frozen=True)
class Batch:
    """Rows put together."""

    feed: Tensors
    answers: Tensors
    labels: Tensor | None


class Dataset:
    """All samples with the teacher's answers.

    Args:
        teacher: run once on all samples.
        samples: of the teacher's inputs.
        inner: values of the teacher that are wanted besides its outputs, as far as memory
            allows; evenly spread ones are taken.
        vary: add mixed, shifted and mirrored inputs to train on, where inputs allow it.
        seed: of those.
        threads: of ONNX Runtime.

    Attributes:
        training: rows to train on.
        held: every fifth sample (at most 512), to validate on.
        inner: those of the wanted values that the answers hold.
        count: of real rows.
        apart: whether rows are single samples, so that they can be put together.
    """

    def __init__(
        self,
        teacher: ir.Model,
        samples: Samples,
        inner: Sequence[str],
        *,
        labels: Sequence[int] | None,
        vary: bool,
        seed: int,
        threads: int | None,
    ) -> None:
        specs = input_specs(teacher)
        feeds = list(samples)
        first = _taken_apart(feeds[0], specs)
        outputs = [v.name or "" for v in teacher.graph.outputs]
        self.apart = first is not None and _gives_rows(teacher, feeds, specs, threads)
        singles = [row for feed in feeds for row in _taken_apart(feed, specs) or [feed]]
        singles = singles if self.apart else feeds
        self.count = len(singles)
        if len(singles) < 2:
            raise SamplesError("tuning needs two samples at least: one of them is held out")
        step = max(5, len(singles) // 512)
        last = len(singles) if len(singles) < step else 0
        held = [i for i in range(len(singles)) if i % step == step - 1 or i + 1 == last]
        kept = [i for i in range(len(singles)) if i not in set(held)]
        real = [singles[index] for index in kept]
        extra = _extra(real) if vary and self.apart and labels is None else 0
        self.inner = _affordable(
            teacher, singles[0], len(singles) + extra, inner, self.apart, threads
        )
        session = Session(tapped(teacher, self.inner), threads=threads)
        wanted = {*outputs, *self.inner}

        def rows(feeds: Iterable[Feed], classes: Sequence[int] | None = None) -> Iterator[Row]:
            answered = _answered(session, feeds, wanted, self.apart)
            for index, (feed, answers) in enumerate(answered):
                label = None if classes is None else int(classes[index])
                yield Row(torch_feed(feed), torch_feed(answers), label)

        def real_rows(places: Sequence[int]) -> list[Row]:
            classes = None if labels is None else [labels[index] for index in places]
            return list(rows([singles[index] for index in places], classes))

        self.held, self.training = real_rows(held), real_rows(kept)
        self.training += rows(augment(real, extra, seed=seed))


def _answered(
    session: Session, feeds: Iterable[Feed], wanted: Collection[str], apart: bool
) -> Iterator[tuple[Feed, Feed]]:
    """Feeds with the teacher's answers; those of one form that follow each other run together."""

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
        if waiting and (not apart or len(waiting) == _AT_ONCE or _form(feed) != _form(waiting[0])):
            yield from run(waiting)
            waiting = []
        waiting.append(feed)
    if waiting:
        yield from run(waiting)


def _form(feed: Feed) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, array.shape) for name, array in feed.items()]


def batches(
    rows: Sequence[Row], size: int, apart: bool, order: torch.Generator | None = None
) -> Iterator[list[Batch]]:
    """All rows once, `size` at a time; those of different forms come as several batches.

    Args:
        rows: what is put together.
        size: rows at a time.
        apart: whether rows can be put together.
        order: shuffles them; None keeps the order.
    """
    places = list(range(len(rows)))
    if order is not None:
        places = torch.randperm(len(rows), generator=order).tolist()
    for start in range(0, len(places), size):
        chosen = [rows[place] for place in places[start : start + size]]
        if not apart:
            yield [_together([row]) for row in chosen]
            continue
        forms: dict[tuple[object, ...], list[Row]] = {}
        for row in chosen:
            forms.setdefault(row.form, []).append(row)
        yield [_together(group) for group in forms.values()]


def _together(rows: Sequence[Row]) -> Batch:
    labels = [row.label for row in rows if row.label is not None]
    if len(rows) == 1:
        feed, answers = rows[0].feed, rows[0].answers
    else:
        feed = {name: torch.cat([row.feed[name] for row in rows]) for name in rows[0].feed}
        answers = {n: torch.cat([row.answers[n] for row in rows]) for n in rows[0].answers}
    return Batch(feed, answers, torch.tensor(labels) if labels else None)


def _taken_apart(feed: Feed, specs: Sequence[InputSpec]) -> list[Feed] | None:
    """The samples of a feed, None where an input has no free batch axis in front."""
    for spec in specs:
        if not spec.shape or isinstance(spec.shape[0], int):
            return None
    count = feed_size(feed, specs)
    if any(len(array) != count for array in feed.values()):
        return None
    return [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]


def _gives_rows(
    teacher: ir.Model, feeds: Sequence[Feed], specs: Sequence[InputSpec], threads: int | None
) -> bool:
    """Whether every output has a row per sample."""
    single = (_taken_apart(feeds[0], specs) or [])[0]
    pair = {name: np.concatenate([array, array]) for name, array in single.items()}
    session = Session(teacher, threads=threads)
    one, two = session.run(single), session.run(pair)
    return all(
        getattr(one[name], "ndim", 0) and len(one[name]) == 1 and len(two[name]) == 2
        for name in one
    )


def _extra(real: Sequence[Feed]) -> int:
    """How many rows are added: up to four times as many as there are, as far as memory allows."""
    if not can_augment(real[0]):
        return 0
    bytes_each = sum(array.nbytes for array in real[0].values())
    room = min(_ENOUGH_ROWS, _VARIED_BYTES // bytes_each) - len(real)
    return max(0, min(_COPIES * len(real), room))


def _affordable(
    teacher: ir.Model,
    feed: Feed,
    count: int,
    inner: Sequence[str],
    apart: bool,
    threads: int | None,
) -> list[str]:
    """Evenly spread inner values whose rows fit into memory."""
    if not inner:
        return []
    found = Session(tapped(teacher, inner), threads=threads).run(feed)
    each = _INNER_BYTES / count / _MAX_INNER
    fit = [
        name
        for name in inner
        if name in found
        and isinstance(found[name], np.ndarray)
        and found[name].dtype == np.float32
        and found[name].nbytes <= each
        and (not apart or (found[name].ndim > 1 and len(found[name]) == 1))
    ]
    if len(fit) <= _MAX_INNER:
        return fit
    places = np.linspace(0, len(fit) - 1, _MAX_INNER).round().astype(int)
    return [fit[place] for place in places]
