"""Options and report of label-free repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.analysis.lineage import paired
from onnxlite.options import Exclude, Include, Limit, Seed
from onnxlite.records import Changes, LayerRow, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: What of a layer is fitted.
Method: TypeAlias = Literal["auto", "full", "affine", "bias"]


#: What of a layer was fitted: `"rounded"` puts the present weights on their grid again.
FitMethod: TypeAlias = Literal["full", "affine", "bias", "rounded", "none"]

#: `Repair.max_rows` of the steps whose weights are fitted with the best effort.
BEST_MAX_ROWS = 49152


class RepairedLayer(LayerRow, frozen=True, kw_only=True):
    """A layer that was fitted, and its error on the samples held out.

    Attributes:
        target: name of the reference's value that the layer was fitted to.
        method: what was fitted; `"none"` where nothing is gained, so that the layer stays.
        rows: number of output positions that were fitted.
        features: number of inputs of one output: the elements of a sum.
        error_before: squared error over the variance of the target, with the old weights.
        error: the same with the new weights.
    """

    target: str
    method: FitMethod
    rows: int
    features: int
    error_before: float
    error: float


class RepairChanges(Changes, frozen=True, kw_only=True):
    """What `repair` counts.

    Attributes:
        layers_repaired: layers with new weights.
    """

    layers_repaired: int = 0


class RepairReport(StepReport, frozen=True, kw_only=True):
    """Report of `repair`; for the other fields see `StepReport`."""

    changes: RepairChanges = RepairChanges()
    layers: tuple[RepairedLayer, ...] = ()


class Repair(Step, frozen=True, kw_only=True):
    """Fit the model's layers to those of the recipe's input; see `onnxlite.repair`.

    With `candidate`, the path of a model, that model is fitted to the model at this place of
    the recipe, and replaces it.
    """

    report: ClassVar[type[StepReport]] = RepairReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    ties_lengths: ClassVar[bool] = False
    advice: ClassVar[str] = "`tune` the result, or compress less before"

    candidate: (
        Annotated[
            Path, Meta(description="File of the model to repair; by default the present model.")
        ]
        | None
    ) = None
    method: Annotated[
        Method,
        Meta(
            description='`"full"` fits every weight that is not zero, `"affine"` a factor and a '
            'bias per output channel (weights stay on their grid), `"bias"` a bias only; '
            '`"auto"` takes what does best on held-out samples, layer by layer.'
        ),
    ] = "auto"
    ridge: Annotated[
        float,
        Meta(
            ge=0,
            description="Strength of the pull towards the present weights, relative to the mean "
            "second moment of the layer's input.",
        ),
    ] = 1e-3
    max_rows: Annotated[
        int,
        Meta(ge=1, description="Output positions per layer that are fitted, chosen at random."),
    ] = 12288
    include: Include = ()
    exclude: Exclude = ()
    limit: Limit = None
    seed: Seed = 0

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, RepairReport]:
        """Repair `model` against the model that it was made from."""
        from onnxlite.repair.engine import FitOptions
        from onnxlite.repair.step import repair_ir

        assert samples is not None
        reference, candidate = paired(self.candidate, model, self.name())
        fits = FitOptions(repair=self, threads=context.threads)
        result, report = repair_ir(reference, candidate, samples, fits, progress=context.progress)
        return (result if report.changed else model), report
