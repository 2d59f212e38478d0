"""The step of half precision; see `onnxlite.recipe.steps`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.quantize.float16.convert import IoType
from onnxlite.quantize.float16.step import HalfMode, HalfOptions, HalfType, to_float16_ir
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike


class ToFloat16(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="to-float16"):
    """Weights, and activations if asked for, in 16 bits; see `onnxlite.to_float16`."""

    needs_samples: ClassVar[bool] = False

    keep: tuple[str, ...] = ()
    io: IoType = "keep"
    dtype: HalfType = "float16"
    mode: HalfMode | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        self._options().check()

    def _options(self) -> HalfOptions:
        return HalfOptions(
            keep=self.keep, io=self.io, dtype=self.dtype, mode=self.mode, limit=self.limit
        )

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Convert `model`; what leaves the range on the samples stays float32."""
        return to_float16_ir(model, samples, self._options(), progress=progress)
