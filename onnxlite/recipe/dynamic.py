"""The steps that quantize activations as they come: options of functions, as data."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.quantize.core.options import Rounding, Smooth
from onnxlite.quantize.dynamic.kernels import dynamic_target
from onnxlite.quantize.dynamic.step import DynamicOptions, KernelChoice, quantize_dynamic_ir
from onnxlite.quantize.mixed.auto import MIN_SQNR_DB, AutoOptions, quantize_auto_ir
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike


class QuantizeDynamic(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="quantize-dynamic"
):
    """INT8 weights, scales of activations in each run; see `onnxlite.quantize_dynamic`."""

    needs_samples: ClassVar[bool] = False

    target: str = "cpu"
    kernel: KernelChoice = "auto"
    embeddings: bool = True
    smooth: Smooth = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        dynamic_target(self.target)

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` on the kernels that are fastest for the first samples."""
        return quantize_dynamic_ir(
            model,
            samples,
            DynamicOptions(
                target=self.target,
                kernel=self.kernel,
                embeddings=self.embeddings,
                smooth=self.smooth,
                include=self.include,
                exclude=self.exclude,
            ),
            progress=progress,
        )


class QuantizeAuto(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="quantize-auto"
):
    """INT8, static or dynamic by measurement; see `onnxlite.quantize_auto`."""

    needs_samples: ClassVar[bool] = True

    target: str = "cpu"
    min_sqnr_db: float = MIN_SQNR_DB
    rounding: Rounding = "compensated"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        dynamic_target(self.target)

    def apply(
        self, model: ir.Model, samples: SamplesLike, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` both ways and keep the better one."""
        return quantize_auto_ir(
            model,
            samples,
            AutoOptions(
                target=self.target,
                min_sqnr_db=self.min_sqnr_db,
                rounding=self.rounding,
                include=self.include,
                exclude=self.exclude,
                limit=self.limit,
            ),
            progress=progress,
        )
