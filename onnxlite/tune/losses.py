"""How far the student is from the teacher: one number with gradients.

KL divergence where an output says how likely classes are (Hinton et al. 2015, at temperature
1), mean squared error over the teacher's variance everywhere, and the same for inner layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxlite.errors import OptionError

LossName = Literal["auto", "kl", "mse"]
#: Takes the outputs of student and teacher by name; gives a tensor of one number.
LossFunction: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]

#: Weight of inner layers in the loss, next to the outputs.
_INNER = 1.0
#: A teacher this sure of a class, on average, is a classifier.
_SURE = 0.5


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
        """What validation decides by."""
        if self.custom is not None:
            return self.custom(student, teacher)
        total = torch.zeros(())
        for name in self.outputs:
            have, want = student[name].float(), teacher[name].float()
            total = total + F.mse_loss(have, want) / self.variances[name]
            if name in self.classes:
                likely = self.classes[name]
                total = total + F.kl_div(
                    _log(have, likely), _log(want, likely), reduction="batchmean", log_target=True
                )
        if self.labelled is not None and labels is not None:
            likely = self.classes.get(self.labelled, False)
            total = total + F.nll_loss(_log(student[self.labelled].float(), likely), labels)
        return total

    def __call__(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], labels: Tensor | None
    ) -> Tensor:
        """What training decides by: inner layers as well."""
        total = self.of_outputs(student, teacher, labels)
        for mine, theirs in self.inner:
            error = F.mse_loss(student[mine], teacher[theirs]) / self.variances[theirs]
            total = total + _INNER / len(self.inner) * error
        return total


def _log(scores: Tensor, likely: bool) -> Tensor:
    return scores.clamp_min(1e-7).log() if likely else scores.log_softmax(1)


def class_outputs(
    teacher: Mapping[str, Tensor], kind: str, outputs: Sequence[str]
) -> dict[str, bool]:
    """Which outputs hold scores of classes, and whether these are probabilities.

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
        likely = bool((scores >= 0).all() and ((scores.sum(1) - 1).abs() < 1e-3).all())
        sure = scores if likely else scores.softmax(1)
        if kind == "kl" or likely or float(sure.amax(1).mean()) > _SURE:
            found[name] = likely
    if kind == "kl" and not found:
        raise OptionError(
            "loss='kl' needs an output of shape [batch, classes], and the model has none: use 'mse'"
        )
    return found
