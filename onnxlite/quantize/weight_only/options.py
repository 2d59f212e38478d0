"""Options and report of weight-only quantization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.options import Effort, Limit
from onnxlite.packing import Bits, weight_type
from onnxlite.records import Changes, LayerRow, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Method that finds scales, zero points and codes.
WeightMethod: TypeAlias = Literal["auto", "rtn", "hqq", "gptq"]
#: Method that found the codes of a weight.
FoundBy: TypeAlias = Literal["rtn", "hqq", "gptq"]
#: Use of packed weights: decode them at load, or let kernels read them.
WeightMode: TypeAlias = Literal["storage", "compute"]
#: Width of the first and the last layer.
FirstLastBits: TypeAlias = Literal["auto", "same", "float", 8, 6, 5, 4, 3, 2, "ternary", "binary"]

#: Default block size, used for types of fewer levels than the second number.
_BLOCK_SIZE, _FINE_LEVELS = 32, 64
#: Types of at most this many levels have one scale per channel: a scale per block would take
#: half as many bytes as the codes.
_COARSE_LEVELS = 3


class PackedWeight(LayerRow, frozen=True, kw_only=True):
    """A weight that is stored in few bits.

    Attributes:
        weight: name of its initializer.
        shape: its shape.
        bits: name of its type: `"8"` to `"2"`, `"ternary"` or `"binary"`.
        block: number of weights per scale; 0 for one scale per channel.
        method: the method that found the codes.
        bytes_before: bytes of the float weight.
        bytes: bytes of codes, scales and zero points.
        weight_sqnr_db: SQNR of the decoded weight in dB; None without noise or signal.
        error_nearest: output error of round-to-nearest over the variance of the float output;
            None without samples.
        error: the same of the codes that were written.
    """

    weight: str
    shape: tuple[int, ...]
    bits: str
    block: int
    method: FoundBy
    bytes_before: int
    bytes: int
    weight_sqnr_db: float | None
    error_nearest: float | None = None
    error: float | None = None


class QuantizeWeightsChanges(Changes, frozen=True, kw_only=True):
    """What `quantize_weights` counts.

    Attributes:
        weights_packed: weights stored in few bits.
        initializers_to_float16: other initializers that are stored as float16.
    """

    weights_packed: int = 0
    initializers_to_float16: int = 0


class QuantizeWeightsReport(StepReport, frozen=True, kw_only=True):
    """Report of `quantize_weights`; for the other fields see `StepReport`."""

    changes: QuantizeWeightsChanges = QuantizeWeightsChanges()
    layers: tuple[PackedWeight, ...] = ()


class QuantizeWeights(Step, frozen=True, kw_only=True):
    """Store weights in few bits; see `onnxlite.quantize_weights`."""

    report: ClassVar[type[StepReport]] = QuantizeWeightsReport
    renamed: ClassVar[dict[str, str]] = {"ends": "first_last_bits", "size": "max_size"}

    efforts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fast": {"method": "rtn"}}

    effort: Annotated[
        Effort,
        Meta(
            description='`"fast"` rounds to nearest unless `method` asks for more; `"best"` fits '
            "weights to four times as many positions of the outputs."
        ),
    ] = "default"
    bits: Annotated[
        Bits,
        Meta(
            description='Width of a weight: 8, 6, 5, 4, 3, 2, `"ternary"` (-1, 0, 1; 1.6 bits in '
            'the file) or `"binary"` (1 bit). Depthwise convolutions keep 8 bits.'
        ),
    ] = 4
    block_size: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="Weights that share a scale; 0 for one scale per output channel; "
                "None for 32 at 2 to 4 bits and 0 at all other widths. The closest divisor of a "
                "layer's sums is taken.",
            ),
        ]
        | None
    ) = None
    method: Annotated[
        WeightMethod,
        Meta(
            description='`"rtn"` rounds to nearest. `"gptq"` fits each layer to the float model '
            "on its present input, rounds with compensation (Frantar et al. 2023) and adds a "
            "scale and bias per output channel; rounding to nearest is kept where it is no worse "
            'on held-out samples. `"hqq"` chooses zero points without samples by half-quadratic '
            'splitting (Badri & Shaji 2023). `"auto"` is `"gptq"` with samples, else `"hqq"`, '
            'and `"rtn"` for models of 1 GiB and more.',
            extra={"synonyms": {"nearest": "rtn", "compensated": "gptq"}},
        ),
    ] = "auto"
    mode: Annotated[
        WeightMode,
        Meta(
            description='`"storage"`: weights are decoded once, when ONNX Runtime loads the '
            'model; `"compute"`: kernels read packed weights (MatMulNBits and '
            "GatherBlockQuantized of com.microsoft, 2, 4 and 8 bits; other layers are decoded "
            "at load). In products activations are rounded to int8 where that costs at most "
            "0.5 dB or leaves 30 dB."
        ),
    ] = "storage"
    first_last_bits: Annotated[
        FirstLastBits,
        Meta(
            description='Width of the first and the last layer: `"auto"` gives the first 8 bits, '
            'and the last as well below 4 bits; `"same"`, `"float"`, or a width.'
        ),
    ] = "auto"
    max_size: (
        Annotated[
            float,
            Meta(
                gt=0,
                lt=1,
                description="Size of the result as a fraction of the model's size. Each weight "
                "then gets the width, ternary to 8 bits, that causes least damage at the outputs "
                "per byte saved; `bits` and `first_last_bits` are not used.",
            ),
        ]
        | None
    ) = None
    include: Annotated[
        tuple[str, ...],
        Meta(
            description="Patterns (`fnmatch`) of weight or node names; empty means every weight "
            "of an operator that has some. A named weight of any other operator is taken, too."
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Meta(description="Patterns (`fnmatch`) of names that stay float.")
    ] = ()
    limit: Limit = None

    @property
    def needs_samples(self) -> bool:
        """True if the method needs samples."""
        return self.method == "gptq"

    def validate(self) -> None:
        """Raise `OptionError` for a width without a packing format."""
        weight_type(self.bits)

    def block_for(self, bits: Bits) -> int:
        """Return the number of weights per scale at a width; 0 for one scale per channel."""
        if self.block_size is not None:
            return self.block_size
        if self.max_size is not None:
            return 0
        levels = weight_type(bits).levels
        return _BLOCK_SIZE if _COARSE_LEVELS < levels < _FINE_LEVELS else 0

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, QuantizeWeightsReport]:
        """Pack the weights of `model`; fit them to the samples, if given."""
        from onnxlite.quantize.weight_only.step import quantize_weights_ir

        return quantize_weights_ir(model, samples, self, context)
