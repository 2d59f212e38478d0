"""The step of tuning: the options of `onnxlite.tune`, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.analysis.lineage import original_of
from onnxlite.errors import OptionError
from onnxlite.model import load
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import StepContext
from onnxlite.tune import TuneOptions, tune_ir


class Tune(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="tune"):
    """Train the model to compute what the recipe's input does; see `onnxlite.tune`.

    With `student`, the path of a model, that one is trained to compute what the model at this
    place of the recipe does, and takes its place.
    """

    needs_samples: ClassVar[bool] = True

    student: str | None = None
    steps: Annotated[int, Meta(ge=1)] | None = None
    time_limit: Annotated[float, Meta(gt=0)] | None = None
    loss: Literal["auto", "kl", "mse"] = "auto"
    lr: Annotated[float, Meta(gt=0)] | None = None
    batch: Annotated[int, Meta(ge=1)] = 32
    vary: bool = False
    limit: Annotated[int, Meta(ge=1)] | None = None
    seed: int = 0
    threads: Annotated[int, Meta(ge=1)] | None = None
    checkpoint: str | None = None

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Tune `model`, or the student that is named, on the calibration samples."""
        reference = model if self.student is not None else original_of(model)
        if reference is None:
            raise OptionError("the step 'tune' needs the model that this one was made from")
        options = TuneOptions(
            steps=self.steps,
            time_limit_s=self.time_limit,
            loss=self.loss,
            lr=self.lr,
            batch_size=self.batch,
            augment=self.vary,
            limit=self.limit,
            seed=self.seed,
            checkpoint=self.checkpoint,
        )
        student = model if self.student is None else load(Path(self.student))
        context = StepContext(threads=self.threads, progress=progress)
        result, report = tune_ir(reference, student, samples, options, context)
        return (result if report.changed else model), report
