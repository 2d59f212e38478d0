"""Options and report of dynamic quantization."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.options import Exclude, Include, Limit
from onnxlite.quantize.core.options import (
    EmbeddingsOption,
    QuantizedTable,
    SmoothedValue,
    SmoothOption,
    StorageOption,
    TargetOption,
)
from onnxlite.quantize.weight_only.options import PackedWeight
from onnxlite.records import Changes, LayerRow, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Kernel of the layers; `"auto"` measures all kernels and float for each layer.
KernelChoice: TypeAlias = Literal["auto", "integer", "blocks"]


class DynamicLayer(LayerRow, frozen=True, kw_only=True):
    """A layer with integer weights and activation scales computed at run time.

    Attributes:
        kernel: `"integer"`, `"blocks"` or `"lstm"`.
        time_over_float: time of the layer alone over that in float; None if not measured.
        weights: number of its weights.
        weight_sqnr_db: SQNR of the decoded weights in dB; None without noise or signal.
    """

    kernel: str
    time_over_float: float | None
    weights: int
    weight_sqnr_db: float | None


class QuantizeDynamicChanges(Changes, frozen=True, kw_only=True):
    """What `quantize_dynamic` counts.

    Attributes:
        layers_quantized: layers on integers.
        tables_quantized: look-up tables in 8 bits.
        values_smoothed: activations that SmoothQuant divided.
        weights_stored: weights of float layers that are stored in 8 bits.
    """

    layers_quantized: int = 0
    tables_quantized: int = 0
    values_smoothed: int = 0
    weights_stored: int = 0


class QuantizeDynamicReport(StepReport, frozen=True, kw_only=True):
    """Report of `quantize_dynamic`; for the other fields see `StepReport`.

    Attributes:
        layers: layers on integers.
        tables: look-up tables in 8 bits.
        smoothed_values: activations that SmoothQuant divided.
        stored_weights: weights of layers that stay float, in 8 bits that are decoded at load.
    """

    changes: QuantizeDynamicChanges = QuantizeDynamicChanges()
    layers: tuple[DynamicLayer, ...] = ()
    tables: tuple[QuantizedTable, ...] = ()
    smoothed_values: tuple[SmoothedValue, ...] = ()
    stored_weights: tuple[PackedWeight, ...] = ()


class QuantizeDynamic(Step, frozen=True, kw_only=True):
    """Quantize weights now and activations at run time; see `onnxlite.quantize_dynamic`."""

    report: ClassVar[type[StepReport]] = QuantizeDynamicReport
    runtime: ClassVar[tuple[str, ...]] = ("batch_axis", "floor_db", "progress")

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
    storage: StorageOption = True
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
    ) -> tuple[ir.Model, QuantizeDynamicReport]:
        """Quantize `model` with the kernels that are fastest on the first sample."""
        from onnxlite.quantize.dynamic.step import quantize_dynamic_ir

        return quantize_dynamic_ir(model, samples, self, context)
