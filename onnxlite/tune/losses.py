"""Distillation loss: the student's distance from the teacher, one number with gradients.

KL divergence where an output holds class scores (Hinton et al. 2015, at temperature 1), mean
squared error over the teacher's variance everywhere, and the same for inner layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.errors import OptionError
from onnxlite.tune.dataset import Dataset, Row, batches
from onnxlite.tune.parameters import Tensors
from onnxlite.tune.student import Student

#: Takes the outputs of student and teacher by name; gives a tensor of one number.
LossFunction: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]

#: Weight of inner layers in the loss, next to the outputs.
_INNER_WEIGHT = 1.0
#: A teacher this sure of a class, on average, is a classifier.
_MIN_CONFIDENCE = 0.5
#: Rows that variances are estimated from.
_VARIANCE_ROWS = 256


@dataclass(frozen=True)
class Loss:
    """The loss of one pair of models.

    Attributes:
        outputs: the float outputs that are compared.
        classes: those of them that hold scores of classes, and whether these are
            probabilities already.
        inner: pairs of student's and teacher's inner value, by name.
        variances: of the teacher's values, by name.
        custom: the caller's function instead of all that.
        labelled: the output that labels are for, None without labels.
    """

    outputs: Sequence[str]
    classes: Mapping[str, bool]
    inner: Sequence[tuple[str, str]]
    variances: Mapping[str, float]
    custom: LossFunction | None = None
    labelled: str | None = None

    def of_outputs(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor | None
    ) -> Tensor:
        """Return the loss of the outputs, which validation decides by."""
        if self.custom is not None:
            return self.custom(student, teacher)
        total = torch.zeros(())
        for name in self.outputs:
            have, want = student[name].float(), teacher[name].float()
            total = total + F.mse_loss(have, want) / self.variances[name]
            if name in self.classes:
                probable = self.classes[name]
                total = total + F.kl_div(
                    _log(have, probable),
                    _log(want, probable),
                    reduction="batchmean",
                    log_target=True,
                )
        if self.labelled is not None and labels is not None:
            probable = self.classes.get(self.labelled, False)
            total = total + F.nll_loss(_log(student[self.labelled].float(), probable), labels)
        return total

    def __call__(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor | None
    ) -> Tensor:
        """Return the loss of outputs and inner layers, which training minimizes."""
        total = self.of_outputs(student, teacher, labels)
        for mine, theirs in self.inner:
            error = F.mse_loss(student[mine], teacher[theirs]) / self.variances[theirs]
            total = total + _INNER_WEIGHT / len(self.inner) * error
        return total


def _log(scores: Tensor, probable: bool) -> Tensor:
    return scores.clamp_min(1e-7).log() if probable else scores.log_softmax(1)


def make_loss(
    student: Student,
    data: Dataset,
    inner: Mapping[str, str],
    kind: str | LossFunction,
    *,
    labelled: bool,
) -> Loss:
    """Make the loss with the variances of the teacher's values.

    Args:
        student: is run once, to compare shapes.
        data: the teacher's answers.
        inner: the student's inner values by the teacher's name; those of other shapes are
            left out.
        kind: `"auto"`, `"kl"`, `"mse"`, or the caller's own function.
        labelled: whether rows have labels.

    Raises:
        OptionError: the outputs differ in shape, or have nothing that can be compared.
    """
    answers = data.held_out[0].answers
    outputs = [name for name in data.outputs if _is_compared(answers[name])]
    if not outputs and not callable(kind):
        raise OptionError("the model has no output of real numbers to compare")
    values, first = _first_values(student, data, list(inner.values()))
    for name in outputs:
        if values[name].shape != first[name].shape:
            raise OptionError(
                f"output {name!r} is {list(values[name].shape)} in the model and "
                f"{list(first[name].shape)} in the reference: tuning needs the model "
                "that this one was made from"
            )
    pairs = [
        (mine, theirs)
        for theirs, mine in inner.items()
        if values[mine].shape == first[theirs].shape and values[mine].is_floating_point()
    ]
    scored = [name for name in outputs if answers[name].dim() == 2]
    if labelled and not scored:
        raise OptionError("labels need an output of shape [batch, classes], and there is none")
    compared = [*outputs, *(theirs for _, theirs in pairs)]
    return Loss(
        outputs=outputs,
        classes=_classes(data, "mse" if callable(kind) else kind, outputs),
        inner=pairs,
        variances={name: _variance(data.training, name) for name in compared},
        custom=kind if callable(kind) else None,
        labelled=scored[0] if labelled else None,
    )


def _is_compared(answer: Tensor) -> bool:
    """Tell whether an output counts: real numbers, and at least one of them."""
    return bool(answer.is_floating_point() and answer.numel() > 0)


def _first_values(
    student: Student, data: Dataset, taps: Sequence[str]
) -> tuple[Tensors, Mapping[str, Tensor]]:
    """Values of the student and the teacher on the first held-out row."""
    (first, *_), *_ = batches(data.held_out[:1], 1, data.batchable)
    with torch.no_grad():
        return student(first.feed, taps), first.answers


def _classes(data: Dataset, kind: str, outputs: Sequence[str]) -> dict[str, bool]:
    """Find class scores among the outputs, if rows are alike."""
    if not data.batchable or len({row.form for row in data.training}) != 1:
        return {}
    answers = {n: torch.cat([row.answers[n] for row in data.training]) for n in outputs}
    return _class_outputs(answers, kind, outputs)


def _variance(rows: Sequence[Row], name: str) -> float:
    """Variance of a teacher's value over some rows; above 0."""
    chosen = rows[:: max(1, len(rows) // _VARIANCE_ROWS)]
    values = torch.cat([row.answers[name].reshape(-1).float() for row in chosen])
    spread = float(values.var(correction=0)) if len(values) else 0.0
    return max(spread, float(np.finfo(np.float32).tiny))


def _class_outputs(
    teacher: Mapping[str, Tensor], kind: str, outputs: Sequence[str]
) -> dict[str, bool]:
    """Find outputs that hold class scores, and whether these are probabilities.

    Args:
        teacher: the outputs on all rows.
        kind: `"auto"` asks how sure the teacher is; `"kl"` takes every table of scores.
        outputs: names of the float outputs.

    Raises:
        OptionError: `"kl"`, and no output is a table of scores.
    """
    found: dict[str, bool] = {}
    for name in outputs if kind != "mse" else ():
        scores = teacher[name].float()
        if scores.dim() != 2 or scores.shape[1] < 2:
            continue
        probable = bool((scores >= 0).all() and ((scores.sum(1) - 1).abs() < 1e-3).all())
        sure = scores if probable else scores.softmax(1)
        if kind == "kl" or probable or float(sure.amax(1).mean()) > _MIN_CONFIDENCE:
            found[name] = probable
    if kind == "kl" and not found:
        raise OptionError(
            "loss='kl' needs an output of shape [batch, classes], and the model has none: use 'mse'"
        )
    return found
