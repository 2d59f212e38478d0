"""Options of the choice between static and dynamic quantization."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import onnx_ir as ir
from msgspec import Meta

from onnxlite.options import Exclude, Include, Limit
from onnxlite.quantize.core.options import RoundingOption, TargetOption
from onnxlite.records import StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: 20 dB is 1% of noise, a cosine similarity of 0.995 with the float output.
MIN_SQNR_DB = 20.0


class QuantizeAuto(Step, frozen=True, kw_only=True):
    """Quantize static or dynamic by measurement; see `onnxlite.quantize_auto`."""

    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"

    target: TargetOption = "cpu"
    min_sqnr_db: Annotated[
        float, Meta(description="SQNR in dB that the worst output must keep on held-out samples.")
    ] = MIN_SQNR_DB
    rounding: RoundingOption = "compensated"
    include: Include = ()
    exclude: Exclude = ()
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for a target without dynamic kernels."""
        from onnxlite.quantize.dynamic.kernels import dynamic_target

        dynamic_target(self.target)

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` both ways and return the better one."""
        from onnxlite.quantize.mixed.auto import quantize_auto_ir

        assert samples is not None
        return quantize_auto_ir(model, samples, self, context)
