"""Options of dynamic quantization."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.options import Exclude, Include, Limit
from onnxlite.quantize.core.options import EmbeddingsOption, SmoothOption, TargetOption
from onnxlite.records import StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Kernel of the layers; `"auto"` measures all kernels and float for each layer.
KernelChoice: TypeAlias = Literal["auto", "integer", "blocks"]


class QuantizeDynamic(Step, frozen=True, kw_only=True):
    """Quantize weights now and activations at run time; see `onnxlite.quantize_dynamic`."""

    runtime: ClassVar[tuple[str, ...]] = ("progress",)

    target: TargetOption = "cpu"
    kernel: Annotated[
        KernelChoice,
        Meta(
            description='`"auto"` times each layer alone, in float and on each kernel, and '
            'takes the fastest on one thread; `"integer"`: one scale for all activations of a '
            'layer, by standard operators; `"blocks"`: a scale per block of each row, by '
            "ONNX Runtime's MatMulNBits."
        ),
    ] = "auto"
    embeddings: EmbeddingsOption = True
    smooth: SmoothOption = "auto"
    include: Include = ()
    exclude: Exclude = ()
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for a target without these kernels."""
        from onnxlite.quantize.dynamic.kernels import dynamic_target

        dynamic_target(self.target)

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` with the kernels that are fastest on the first sample."""
        from onnxlite.quantize.dynamic.step import quantize_dynamic_ir

        return quantize_dynamic_ir(model, samples, self, context)
