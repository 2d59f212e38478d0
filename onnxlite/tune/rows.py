"""Samples with the teacher's answers, one row each, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxlite.runtime import Session, tapped
from onnxlite.samples import Feed, InputSpec, Samples, feed_size, input_specs
from onnxlite.tune.executor import torch_feed
from onnxlite.tune.learned import Tensors

#: Bytes of the teacher's inner values that are kept for all rows.
_INNER_BYTES = 1 << 29
_MAX_INNER = 8


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


class Rows:
    """All samples with the teacher's answers.

    Args:
        teacher: run once on all samples.
        samples: of the teacher's inputs.
        inner: values of the teacher that are wanted besides its outputs, as far as memory
            allows; evenly spread ones are taken.
        threads: of ONNX Runtime.

    Attributes:
        rows: in the order of the samples.
        inner: those of the wanted values that the answers hold.
        apart: whether rows are single samples, so that they can be put together.
    """

    def __init__(
        self,
        teacher: ir.Model,
        samples: Samples,
        inner: Sequence[str],
        *,
        labels: Sequence[int] | None,
        threads: int | None,
    ) -> None:
        specs = input_specs(teacher)
        feeds = list(samples)
        first = _taken_apart(feeds[0], specs)
        outputs = [v.name or "" for v in teacher.graph.outputs]
        self.apart = first is not None and _gives_rows(teacher, feeds, specs, threads)
        singles = [row for feed in feeds for row in _taken_apart(feed, specs) or [feed]]
        singles = singles if self.apart else feeds
        self.inner = _affordable(teacher, singles, inner, self.apart, threads)
        session = Session(tapped(teacher, self.inner), threads=threads)
        wanted = {*outputs, *self.inner}
        self.rows: list[Row] = []
        for index, feed in enumerate(singles):
            answers = {k: v for k, v in session.run(feed).items() if k in wanted}
            label = None if labels is None else int(labels[index])
            self.rows.append(Row(torch_feed(feed), torch_feed(answers), label))

    def split(self) -> tuple[list[Row], list[Row]]:
        """Rows to train on, and every fifth (at most 512) to validate on."""
        step = max(5, len(self.rows) // 512)
        held = [row for index, row in enumerate(self.rows) if index % step == step - 1]
        held = held or self.rows[-1:]
        chosen = {id(row) for row in held}
        rest = [row for row in self.rows if id(row) not in chosen]
        return rest, held


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


def _affordable(
    teacher: ir.Model,
    singles: Sequence[Feed],
    inner: Sequence[str],
    apart: bool,
    threads: int | None,
) -> list[str]:
    """Evenly spread inner values whose rows fit into memory."""
    if not inner:
        return []
    found = Session(tapped(teacher, inner), threads=threads).run(singles[0])
    each = _INNER_BYTES / len(singles) / _MAX_INNER
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
