"""Options and report of conversion to 16-bit floats."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.errors import OptionError
from onnxlite.options import Limit
from onnxlite.records import Changes, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: Type of the converted weights and activations.
HalfType: TypeAlias = Literal["float16", "bfloat16"]
#: Compute in 16 bits, or only store constants in 16 bits and cast them back.
HalfMode: TypeAlias = Literal["compute", "storage"]
#: Type of the model's float inputs and outputs.
IoType: TypeAlias = Literal["keep", "float16"]


class ToFloat16Changes(Changes, frozen=True, kw_only=True):
    """What `to_float16` counts.

    Attributes:
        nodes_converted: nodes that compute in 16 bits.
        constants_converted: constants that are stored in 16 bits.
        casts_inserted: Cast nodes.
    """

    nodes_converted: int = 0
    constants_converted: int = 0
    casts_inserted: int = 0


class ToFloat16Report(StepReport, frozen=True, kw_only=True):
    """Report of `to_float16`; it has no rows."""

    changes: ToFloat16Changes = ToFloat16Changes()


class ToFloat16(Step, frozen=True, kw_only=True):
    """Convert float32 weights and activations to 16 bits; see `onnxlite.to_float16`."""

    report: ClassVar[type[StepReport]] = ToFloat16Report
    renamed: ClassVar[dict[str, str]] = {"keep": "exclude"}

    exclude: Annotated[
        tuple[str, ...],
        Meta(description="Patterns (`fnmatch`) of node or operator names that stay float32."),
    ] = ()
    io: Annotated[
        IoType,
        Meta(
            description='Types of float inputs and outputs: `"keep"` casts inside of the '
            'model, `"float16"` changes them.'
        ),
    ] = "keep"
    dtype: Annotated[
        HalfType,
        Meta(
            description='`"bfloat16"` has the range of float32 and 8 bits of precision, which '
            "leaves 18 dB less than float16; ONNX Runtime has no CPU kernels for it, so it needs "
            '`mode="storage"`.'
        ),
    ] = "float16"
    mode: Annotated[
        HalfMode | None,
        Meta(
            description='`"compute"`: activations and operators are 16 bits too; ONNX Runtime '
            'on x86 casts most of them back at each run. `"storage"`: only weights, cast once at '
            'load, at the speed of float32. None is `"compute"` for float16 and `"storage"` for '
            "bfloat16."
        ),
    ] = None
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for conflicting options."""
        if self.dtype == "bfloat16" and (self.mode == "compute" or self.io == "float16"):
            raise OptionError(
                "ONNX Runtime's CPU kernels do not compute in bfloat16: use it with "
                "mode='storage' and io='keep', or use dtype='float16'"
            )

    @property
    def changes_io(self) -> bool:
        """True if float inputs and outputs become float16."""
        return self.io == "float16"

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, ToFloat16Report]:
        """Convert `model`; nodes out of range on the samples stay float32."""
        from onnxlite.quantize.float16.step import to_float16_ir

        return to_float16_ir(model, samples, self, context)
