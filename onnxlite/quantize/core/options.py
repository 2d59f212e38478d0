"""Options and report of static quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.calibrate import ObserverName
from onnxlite.options import Effort, Exclude, Include, Limit
from onnxlite.records import Changes, LayerRow, ResolvedOptions, Row, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Cut ranges that a printed report shows.
_CUTS_SHOWN = 3

#: How weights are rounded; `"compensated"` is GPTQ with a scale and bias per output channel.
Rounding: TypeAlias = Literal["compensated", "nearest"]
#: Bits of a weight; below 8 weights are packed.
WeightBits: TypeAlias = Literal[8, 6, 4, 3]
#: How integers are written: Q and DQ nodes around float operators, or integer operators.
Form: TypeAlias = Literal["qdq", "qoperator"]
#: Which layers run on integers: those measured to be faster so, or all that can.
PlacementBy: TypeAlias = Literal["measured", "everything", "remembered"]
#: Whether to apply SmoothQuant; `"auto"` does where the measured error falls.
Smooth: TypeAlias = Literal["auto"] | bool
#: How the range of an activation is chosen.
ObserverChoice: TypeAlias = Literal[ObserverName, "auto"]

TargetOption: TypeAlias = Annotated[
    str, Meta(description="Runtime whose integer types are used: a row of the table of targets.")
]
SmoothOption: TypeAlias = Annotated[
    Smooth,
    Meta(
        description="Move outliers of the channels that MatMul and Gemm read into the weights "
        '(SmoothQuant, Xiao et al. 2023): `"auto"` where the error on samples falls clearly, '
        "True wherever possible, False never."
    ),
]
EmbeddingsOption: TypeAlias = Annotated[
    bool,
    Meta(description="Also store look-up tables in 8 bits, one scale per row (CPU targets)."),
]
StorageOption: TypeAlias = Annotated[
    bool,
    Meta(
        description="Store the weights of layers that stay float, such as recurrent cells without "
        "an integer kernel, in 8 bits that ONNX Runtime decodes when it loads the model."
    ),
]
RoundingOption: TypeAlias = Annotated[
    Rounding,
    Meta(
        description='`"compensated"` fits the weights of each layer to the samples, on the '
        "integer activations that the layer gets, rounds them so that their errors cancel "
        "(GPTQ, Frantar et al. 2023), and adds a scale and bias per output channel. Nearest "
        "integers are kept where they are no worse on held-out samples. "
        '`"nearest"` only rounds.',
        extra={"synonyms": {"gptq": "compensated", "rtn": "nearest", "round": "nearest"}},
    ),
]


class SmoothedValue(LayerRow, frozen=True, kw_only=True):
    """An activation whose channels were divided, and the weights behind it multiplied.

    Attributes:
        exponent: part of the range that moved into the weights, from 0 to 1.
        less_noise_db: reduction of the noise of the products behind it, in dB.
        own_node: a Mul node divides; otherwise the weights before it do.
    """

    exponent: float
    less_noise_db: float
    own_node: bool


class QuantizedTable(LayerRow, frozen=True, kw_only=True):
    """A look-up table in 8 bits, with one scale per row.

    Attributes:
        weights: number of elements.
        weight_sqnr_db: SQNR of the decoded table in dB; None without noise or signal.
    """

    weights: int
    weight_sqnr_db: float | None


class QuantizedLayer(LayerRow, frozen=True, kw_only=True):
    """A layer with integer weights and activations.

    Attributes:
        weights: number of its weights.
        channels: number of their scales.
        weight_sqnr_db: SQNR of the decoded weights in dB; None without noise or signal.
        error_nearest: output error of round-to-nearest over the variance of the float output;
            None if the weights were not fitted.
        error: the same of the weights that were written.
    """

    weights: int
    channels: int
    weight_sqnr_db: float | None
    error_nearest: float | None = None
    error: float | None = None


class CutRange(Row, frozen=True, kw_only=True):
    """Quantization range of a value that some calibration samples exceed; they are clipped.

    Attributes:
        name: of the value.
        low: lower end of the range.
        high: upper end.
        seen_low: smallest number over all calibration samples.
        seen_high: the largest.
        beyond: number of samples that exceed the range; no more than calibration keeps.
        samples: number of calibration samples.
        farthest: index of the sample that exceeds the range most, from 0.
    """

    name: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    beyond: int
    samples: int
    farthest: int

    def __str__(self) -> str:
        return (
            f"{self.name} from [{self.seen_low:.3g}, {self.seen_high:.3g}] to [{self.low:.3g}, "
            f"{self.high:.3g}]; {self.beyond} of {self.samples} samples exceed it, sample "
            f"{self.farthest} most"
        )


class QuantizeStaticChanges(Changes, frozen=True, kw_only=True):
    """What `quantize_static` counts.

    Attributes:
        layers_quantized: layers on integers.
        activations_absorbed: activation functions that became part of the layer before.
        values_quantized: activations with a scale and zero point.
        means_pooled: ReduceMean nodes that became GlobalAveragePool.
        values_smoothed: activations that SmoothQuant divided.
        channels_equalized: channels that were scaled up.
        tables_quantized: look-up tables in 8 bits.
        weights_packed: weights of fewer than 8 bits.
        layers_kept_for_sqnr: layers kept float, or at 16 bits, to reach `min_sqnr_db`.
    """

    layers_quantized: int = 0
    activations_absorbed: int = 0
    values_quantized: int = 0
    means_pooled: int = 0
    values_smoothed: int = 0
    channels_equalized: int = 0
    tables_quantized: int = 0
    weights_packed: int = 0
    layers_kept_for_sqnr: int = 0


class ResolvedPlacement(ResolvedOptions, frozen=True, kw_only=True):
    """Options of `quantize_static` that name a measured placement.

    Attributes:
        exclude: patterns of the caller, and the names of all layers that were left in float.
        placement: everything else is quantized.
    """

    exclude: tuple[str, ...]
    placement: Literal["everything"] = "everything"


class QuantizeStaticReport(StepReport, frozen=True, kw_only=True):
    """Report of `quantize_static`; for the other fields see `StepReport`.

    Attributes:
        layers: layers on integers.
        tables: look-up tables in 8 bits.
        smoothed_values: activations that SmoothQuant divided.
        cut_ranges: ranges that calibration samples exceed, the most cut one first.
        sqnr_db: SQNR in dB of the worst part of an output on `hold_out`; None without any error.
        resolved_options: the placement, if it was measured.
    """

    changes: QuantizeStaticChanges = QuantizeStaticChanges()
    layers: tuple[QuantizedLayer, ...] = ()
    tables: tuple[QuantizedTable, ...] = ()
    smoothed_values: tuple[SmoothedValue, ...] = ()
    cut_ranges: tuple[CutRange, ...] = ()
    sqnr_db: float | None = None
    resolved_options: ResolvedPlacement | None = None

    def __str__(self) -> str:
        lines = [super().__str__()]
        lines += [f"  range cut: {cut}" for cut in self.cut_ranges[:_CUTS_SHOWN]]
        if more := len(self.cut_ranges[_CUTS_SHOWN:]):
            lines.append(f"  ranges cut besides: {more}")
        return "\n".join(lines)


class QuantizeStatic(Step, frozen=True, kw_only=True):
    """Quantize weights and activations with calibration; see `onnxlite.quantize_static`."""

    report: ClassVar[type[StepReport]] = QuantizeStaticReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    runtime: ClassVar[tuple[str, ...]] = (
        "batch_axis",
        "threads",
        "executor",
        "floor_db",
        "progress",
    )
    advice: ClassVar[str] = (
        "give a higher `min_sqnr_db`, which keeps sensitive layers float, or `tune`"
    )
    holds_out: ClassVar[Literal["feeds", "spread samples"]] = "spread samples"

    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {
            "rounding": "nearest",
            "equalize": False,
            "placement": "remembered",
            "min_sqnr_db": 0.0,
        }
    }

    target: TargetOption = "cpu"
    effort: Annotated[
        Effort,
        Meta(
            description='`"fast"` rounds to nearest, scales no channels up, measures no times and '
            "keeps no sensitive layers float, unless options ask for it: a tenth of the cost, and "
            'some decibels less; `"best"` fits weights to four times as many positions, times '
            "placements four times as long, and tries more of the layers to keep float if the "
            "result is poor."
        ),
    ] = "default"
    include: Include = ()
    exclude: Exclude = ()
    placement: Annotated[
        PlacementBy,
        Meta(
            description='`"measured"` leaves a layer in float where its integer kernel, with '
            "the conversions around it, is measured to be slower on this machine (one thread, "
            "one sample and up to eight), so the result is never slower than the float model; "
            "for the CPU targets that this machine can run, and for models below 1 GiB. "
            '`"everything"` quantizes every layer that can be; `"remembered"` does so unless the '
            "same structure was measured on this machine before.",
            extra={"synonyms": {"all": "everything", "auto": "measured"}},
        ),
    ] = "measured"
    rounding: RoundingOption = "compensated"
    smooth: SmoothOption = "auto"
    embeddings: EmbeddingsOption = True
    observer: Annotated[
        ObserverChoice,
        Meta(
            description='How the range of an activation is chosen: `"minmax"`, all values '
            'seen; `"moving-average"`, the mean of the limits of batches; `"percentile"`, the '
            'limits of all but 1% of the samples; `"mse"`, least squared error; `"auto"`, the '
            "latter where the model's outputs gain by it on held-out samples, otherwise all values "
            "seen.",
            extra={"synonyms": {"max": "minmax", "histogram": "mse"}},
        ),
    ] = "auto"
    weight_bits: Annotated[
        WeightBits,
        Meta(
            description="Bits of a weight: 8, or fewer, packed in the file. Packed weights run "
            "as fast as 8 bits. Layers of short sums, like depthwise convolutions, keep 8."
        ),
    ] = 8
    equalize: Annotated[
        bool,
        Meta(
            description="Scale up channels that use little of their tensor's range and divide "
            "where they are read, if that helps on held-out samples (cross-layer equalization, "
            "after Nagel et al. 2019)."
        ),
    ] = True
    form: Annotated[
        Form,
        Meta(
            description='`"qdq"`: Q and DQ nodes around float operators, which every runtime '
            'reads; `"qoperator"`: ONNX Runtime\'s integer operators, with the same results '
            "and a smaller file (CPU targets)."
        ),
    ] = "qdq"
    int16: Annotated[
        tuple[str, ...],
        Meta(
            description="Patterns (`fnmatch`) of names of layers that get 16-bit activations, "
            "for the targets `qnn` and `generic`; brings the model to opset 21."
        ),
    ] = ()
    min_sqnr_db: (
        Annotated[
            float,
            Meta(
                description="SQNR in dB that the worst output must keep on held-out samples. "
                "As few layers as needed stay float, or get 16-bit activations where the target "
                "has them; the report says whether the SQNR was reached. None: only a result "
                "with 8-bit weights below 15 dB gets such layers, to reach 20 dB. 0: none."
            ),
        ]
        | None
    ) = None
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for a target that is unknown or lacks what is asked of it."""
        from onnxlite.quantize.core.targets import target_named

        target_named(self.target).offering(self.form, self.int16)

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, QuantizeStaticReport]:
        """Quantize `model` with ranges from the calibration samples."""
        from onnxlite.quantize.mixed.mixed_precision import quantize_mixed_ir

        assert samples is not None
        return quantize_mixed_ir(model, samples, self, context)
