"""Options of simplification."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.records import StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

OnnxsimChoice: TypeAlias = Literal["auto"] | bool


class Simplify(Step, frozen=True, kw_only=True):
    """Fold, fuse and clean up the graph; see `onnxlite.simplify`."""

    runtime: ClassVar[tuple[str, ...]] = ("progress",)
    renamed: ClassVar[dict[str, str]] = {"time_limit": "time_limit_s"}

    verify: Annotated[
        bool,
        Meta(
            description="Compare every result with the original in ONNX Runtime (largest "
            "relative difference 1e-4). A rewrite that fails is left out and reported."
        ),
    ] = True
    onnxsim: Annotated[
        OnnxsimChoice,
        Meta(
            description='Run onnxsim too, in a child process: `"auto"` where it can add something, '
            "that is where the graph has operators that onnxlite has no rules for; True always."
        ),
    ] = "auto"
    time_limit_s: Annotated[
        float, Meta(gt=0, description="Seconds that onnxsim may take, in every round.")
    ] = 120.0

    @property
    def fits_samples(self) -> bool:
        """False: samples only verify the rewrites."""
        return False

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, StepReport]:
        """Simplify `model`; rewrites are verified on the first samples."""
        from onnxlite.simplify.pipeline import simplify_ir

        return simplify_ir(model, samples, self, context)
