"""The step of weights in few bits: the options of `onnxlite.quantize_weights`, as data."""

from __future__ import annotations

from typing import Annotated

import msgspec
import onnx_ir as ir
from msgspec import Meta

from onnxlite.quantize.weight_only import (
    Bits,
    Ends,
    WeightMethod,
    WeightMode,
    WeightOptions,
    quantize_weights_ir,
)
from onnxlite.records import Progress, StepReport
from onnxlite.samples import SamplesLike


class QuantizeWeights(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="quantize-weights"
):
    """Weights in few bits, packed; see `onnxlite.quantize_weights`."""

    bits: Bits = 4
    block_size: Annotated[int, Meta(ge=0)] | None = None
    method: WeightMethod = "auto"
    mode: WeightMode = "storage"
    ends: Ends = "auto"
    size: Annotated[float, Meta(gt=0, lt=1)] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        self._options().check()

    @property
    def needs_samples(self) -> bool:
        """Whether there is nothing to do without samples."""
        return self.method == "gptq"

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, progress: Progress
    ) -> tuple[ir.Model, StepReport]:
        """Pack the weights of `model`, fitted to the samples if there are any."""
        return quantize_weights_ir(model, self._options(), samples, progress=progress)

    def _options(self) -> WeightOptions:
        return WeightOptions(
            bits=self.bits,
            block_size=self.block_size,
            method=self.method,
            mode=self.mode,
            ends=self.ends,
            size=self.size,
            include=self.include,
            exclude=self.exclude,
            limit=self.limit,
        )
