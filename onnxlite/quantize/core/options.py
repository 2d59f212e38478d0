"""Options of static quantization."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.calibrate import ObserverName
from onnxlite.options import Exclude, Include, Limit
from onnxlite.records import StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: How weights are rounded; `"compensated"` is GPTQ with a scale and bias per output channel.
Rounding: TypeAlias = Literal["compensated", "nearest"]
#: Bits of a weight; below 8 weights are packed.
WeightBits: TypeAlias = Literal[8, 6, 4, 3]
#: How integers are written: Q and DQ nodes around float operators, or integer operators.
Form: TypeAlias = Literal["qdq", "qoperator"]
#: Which layers run on integers: those measured to be faster so, or all that can.
PlacementBy: TypeAlias = Literal["measured", "everything"]
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


class QuantizeStatic(Step, frozen=True, kw_only=True):
    """Quantize weights and activations with calibration; see `onnxlite.quantize_static`."""

    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    runtime: ClassVar[tuple[str, ...]] = ("threads", "executor", "progress")

    target: TargetOption = "cpu"
    include: Include = ()
    exclude: Exclude = ()
    placement: Annotated[
        PlacementBy,
        Meta(
            description='`"measured"` leaves a layer in float where its integer kernel, with '
            "the conversions around it, is measured to be slower on this machine (one thread, "
            "one sample and up to eight), so the result is never slower than the float model; "
            "for the CPU targets that this machine can run, and for models below 1 GiB. "
            '`"everything"` quantizes every layer that can be.',
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
                "has them; the report says whether the SQNR was reached."
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
    ) -> tuple[ir.Model, StepReport]:
        """Quantize `model` with ranges from the calibration samples."""
        from onnxlite.quantize.mixed.mixed_precision import quantize_mixed_ir

        assert samples is not None
        return quantize_mixed_ir(model, samples, self, context)
