"""Options and report of the choice between static and dynamic quantization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

import onnx_ir as ir
from msgspec import Meta

from onnxlite.options import Effort, Exclude, Include, Limit
from onnxlite.quantize.core.options import (
    QuantizeStaticReport,
    RoundingOption,
    StorageOption,
    TargetOption,
)
from onnxlite.quantize.dynamic.options import QuantizeDynamicReport
from onnxlite.quantize.weight_only.options import PackedWeight
from onnxlite.records import Row, StepReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Step, StepContext

#: 20 dB is 1% of noise, a cosine similarity of 0.995 with the float output.
MIN_SQNR_DB = 20.0


#: A way to quantize a model.
Way: TypeAlias = Literal["static", "dynamic", "mixed"]


class AutoCandidate(Row, frozen=True, kw_only=True):
    """A quantized model that was measured on held-out samples.

    Attributes:
        way: how it was quantized.
        sqnr_db: SQNR of its worst output in dB; infinite without an error.
        time_over_float: processor time of a run over that of the float model, on one thread.
        size_over_float: bytes of tensors over those of the float model.
    """

    way: Way
    sqnr_db: float
    time_over_float: float
    size_over_float: float


class QuantizeAutoReport(StepReport, frozen=True, kw_only=True):
    """Report of `quantize_auto`; for the other fields see `StepReport`.

    Attributes:
        candidates: the models that were measured.
        winner: report of the quantization that was chosen, with its layers and changes; None
            if the model stays float.
        rest: report of dynamic quantization of what `winner`, then a static quantization, left
            in float; None if nothing was.
        stored_weights: other weights, stored in 8 bits that are decoded at load.
    """

    candidates: tuple[AutoCandidate, ...] = ()
    winner: QuantizeStaticReport | QuantizeDynamicReport | None = None
    rest: QuantizeDynamicReport | None = None
    stored_weights: tuple[PackedWeight, ...] = ()

    @property
    def steps(self) -> tuple[QuantizeStaticReport | QuantizeDynamicReport, ...]:
        """Reports of the steps whose result was chosen, in their order."""
        return tuple(report for report in (self.winner, self.rest) if report is not None)

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield each kind of change of the chosen steps with its count."""
        total: Counter[str] = Counter()
        for report in self.steps:
            total.update(dict(report.counts()))
        if self.stored_weights:
            total["weights-stored"] += len(self.stored_weights)
        yield from total.items()

    def row_tables(self) -> Iterator[tuple[str, Sequence[Row]]]:
        """Yield the candidates and the rows of the chosen steps, with headings."""
        yield from super().row_tables()
        for report in self.steps:
            yield from report.row_tables()


class QuantizeAuto(Step, frozen=True, kw_only=True):
    """Quantize static or dynamic by measurement; see `onnxlite.quantize_auto`."""

    report: ClassVar[type[StepReport]] = QuantizeAutoReport
    samples: ClassVar[Literal["needed", "optional", "unused"]] = "needed"

    target: TargetOption = "cpu"
    effort: Annotated[Effort, Meta(description="Of static quantization, see there.")] = "default"
    min_sqnr_db: Annotated[
        float, Meta(description="SQNR in dB that the worst output must keep on held-out samples.")
    ] = MIN_SQNR_DB
    rounding: RoundingOption = "compensated"
    storage: StorageOption = True
    include: Include = ()
    exclude: Exclude = ()
    limit: Limit = None

    def validate(self) -> None:
        """Raise `OptionError` for a target without dynamic kernels."""
        from onnxlite.quantize.dynamic.kernels import dynamic_target

        dynamic_target(self.target)

    def apply(
        self, model: ir.Model, samples: SamplesLike | None, context: StepContext
    ) -> tuple[ir.Model, QuantizeAutoReport]:
        """Quantize `model` both ways and return the better one."""
        from onnxlite.quantize.mixed.auto import quantize_auto_ir

        assert samples is not None
        return quantize_auto_ir(model, samples, self, context)
