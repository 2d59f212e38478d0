"""Options and report of tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from msgspec import Meta
from numpy.typing import NDArray

from onnxlite.analysis.lineage import paired
from onnxlite.options import Limit, Seed
from onnxlite.records import Changes, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Class of each sample.
Labels: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]
#: A function of the outputs of student and reference, dictionaries of tensors by name.
LossFunction: TypeAlias = Callable[..., Any]


class TuneChanges(Changes, frozen=True, kw_only=True):
    """What `tune` counts: the constants that were learned.

    Attributes:
        constants_tuned: float constants.
        scales_tuned: scales of activations.
        integer_weights_tuned: integer weights.
        packed_weights_tuned: weights packed in few bits.
        integer_biases_tuned: integer biases.
    """

    constants_tuned: int = 0
    scales_tuned: int = 0
    integer_weights_tuned: int = 0
    packed_weights_tuned: int = 0
    integer_biases_tuned: int = 0


class TuneReport(StepReport, frozen=True, kw_only=True):
    """Report of `tune`; it has no rows."""

    changes: TuneChanges = TuneChanges()


class Tune(Step, frozen=True, kw_only=True):
    """Train the model to compute what the recipe's input does; see `onnxlite.tune`.

    With `candidate`, the path of a model, that model is trained to compute what the model at
    this place of the recipe does, and replaces it.
    """

    report: ClassVar[type[StepReport]] = TuneReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    ties_lengths: ClassVar[bool] = False
    advice: ClassVar[str] = "give more samples or steps, or compress less before"
    renamed: ClassVar[dict[str, str]] = {
        "student": "candidate",
        "time_limit": "time_limit_s",
        "batch": "batch_size",
        "vary": "augment",
    }

    candidate: (
        Annotated[
            Path, Meta(description="File of the model to train; by default the present model.")
        ]
        | None
    ) = None
    steps: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Optimizer steps; None takes 20 passes over the samples, 300 to "
                "5,000 steps.",
            ),
        ]
        | None
    ) = None
    time_limit_s: (
        Annotated[
            float,
            Meta(gt=0, description="Seconds of training at most; the learning rate follows it."),
        ]
        | None
    ) = None
    loss: Annotated[
        Literal["auto", "kl", "mse"] | LossFunction,
        Meta(
            description='`"mse"`: squared error over variance; `"kl"`: that, and the divergence '
            'of class probabilities; `"auto"`: `"kl"` where an output holds class scores. Or a '
            "function of the outputs of student and reference, dictionaries of tensors by name, "
            "that returns a tensor of one number."
        ),
    ] = "auto"
    lr: (
        Annotated[
            float,
            Meta(
                gt=0,
                description="Learning rate relative to the typical value of each tensor; None "
                "chooses it by short trials.",
            ),
        ]
        | None
    ) = None
    batch_size: Annotated[int, Meta(ge=1, description="Samples per optimizer step.")] = 32
    inner: Annotated[bool, Meta(description="Compare inner layers, too.")] = True
    blocks: Annotated[
        bool,
        Meta(description="Before the whole, train block by block to meet the inner values."),
    ] = True
    augment: Annotated[
        bool,
        Meta(
            description="Also train on mixed, shifted and mirrored inputs, which the reference "
            "answers like real ones; inputs that are not real numbers stay as they are."
        ),
    ] = False
    limit: Limit = None
    seed: Seed = 0
    checkpoint: (
        Annotated[
            Path,
            Meta(
                description="File that the state of training is written to every half minute "
                "and when `progress` raises. If it exists, training resumes from it; it is "
                "removed in the end."
            ),
        ]
        | None
    ) = None

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, TuneReport]:
        """Tune `model`, or the candidate that is named, on the calibration samples."""
        from onnxlite.tune import tune_ir

        assert samples is not None
        reference, candidate = paired(self.candidate, model, self.name())
        result, report = tune_ir(reference, candidate, samples, self, context)
        return (result if report.changed else model), report
