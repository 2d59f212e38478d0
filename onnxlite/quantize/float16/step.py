"""Conversion to float16 or bfloat16: weights, and activations where possible.

prepare -> run float32 -> plan -> convert -> verify

Each phase reads and writes one `_Conversion`. It returns a reason if nothing can be converted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxlite.analysis.quantized_model import already_quantized
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate.reductions import collect_magnitudes
from onnxlite.graph import iter_nodes
from onnxlite.model import size_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.float16.convert import Converted, Prepared, computed, convert
from onnxlite.quantize.float16.fallback import fall_back, keep_refused
from onnxlite.quantize.float16.options import ToFloat16, ToFloat16Changes, ToFloat16Report
from onnxlite.quantize.float16.plan import STEP, HalfPlan, constant_roundings
from onnxlite.quantize.float16.verify import (
    Float32Outputs,
    RefusedError,
    float32_outputs,
    measured_db,
)
from onnxlite.records import Skipped, main_reasons
from onnxlite.samples import SamplesLike
from onnxlite.step import StepContext, StepState

_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: First opset in which Cast supports bfloat16.
_BFLOAT16_OPSET = 13
_ADVICE = "convert the float model that it was made from; integers are smaller than 16 bits"


@dataclass(kw_only=True)
class _Conversion(StepState[ToFloat16]):
    """State of one conversion: the model is float32 up to `_convert`.

    Attributes:
        prepared: the model with types and the roundings of its constants; set by `_prepare`.
        reference: the float32 outputs, or the reason why there are none; set by `_run_float32`.
        plan: the nodes that compute in 16 bits; set by `_plan`.
        converted: the result; set by `_convert`.
        sqnr_db: SQNR of the result in dB, if `_convert` measured it.
        fidelity: the SQNR as text, for the summary.
    """

    prepared: Prepared = field(init=False)
    reference: Float32Outputs | Skipped = field(init=False)
    plan: HalfPlan = field(init=False)
    converted: Converted = field(init=False)
    sqnr_db: float | None = None
    fidelity: str = "not run"


def to_float16_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: ToFloat16,
    context: StepContext,
) -> tuple[ir.Model, ToFloat16Report]:
    """Convert a copy of a model; see `onnxlite.to_float16`."""
    work = _Conversion.begin(model, samples, options, context)
    return work.run((_prepare, _run_float32, _plan, _convert, _verify), _report)


def _prepare(work: _Conversion) -> str | None:
    """Normalize the model, infer its types and measure the rounding of its constants."""
    if reason := already_quantized(work.model, _ADVICE):
        return reason
    work.skipped += normalize(work.model)
    if work.options.dtype == "bfloat16":
        upgraded = upgrade_opset(work.model, _BFLOAT16_OPSET)
        if isinstance(upgraded, Skipped):
            work.skipped.append(upgraded)
            return upgraded.message
        work.model = upgraded
        normalize(work.model)
    model, dtype = work.model, _DTYPES[work.options.dtype]
    untyped = [value for value in computed(model) if value.type is None]
    work.skipped += infer_shapes(model, symbolic=False)
    roundings = constant_roundings(model, dtype, work.context.progress)
    work.prepared = Prepared(model, dtype, work.options.io, roundings, untyped)
    return None


def _run_float32(work: _Conversion) -> None:
    """Run the float32 model on samples or generated inputs."""
    work.reference = float32_outputs(work.source, work.samples, threads=work.context.threads)


def _plan(work: _Conversion) -> None:
    """Choose the nodes that compute in 16 bits, by type, name, range and SQNR."""
    ready, options = work.prepared, work.options
    work.plan = plan = HalfPlan(ready.model, ready.dtype)
    plan.keep_named(ready.model, options.exclude)
    if options.mode == "storage" or options.dtype == "bfloat16":
        plan.only_store()
        return
    plan.keep_unfit_constants(ready.model, ready.roundings, clamp=work.samples is None)
    if work.samples is None or isinstance(work.reference, Skipped):
        return
    magnitudes = collect_magnitudes(
        ready.model,
        _half_values(ready.model, plan),
        work.samples,
        threads=work.context.threads,
        progress=work.context.progress,
    )
    plan.keep_out_of_range(ready.model, magnitudes, ready.dtype)
    work.plan = fall_back(ready, plan, work.reference, progress=work.context.progress)


def _convert(work: _Conversion) -> str | None:
    """Convert the model by the plan, without what ONNX Runtime refuses in 16 bits."""
    work.converted = convert(work.prepared, work.plan)
    if work.plan.ports:
        try:
            work.sqnr_db = measured_db(work.converted.model, work.reference)
        except RefusedError:
            work.plan = keep_refused(work.prepared, work.plan, work.reference)
            work.converted = convert(work.prepared, work.plan)
    work.model = work.converted.model
    work.skipped += work.plan.skipped
    work.skipped += [
        Skipped(STEP, name, "clamped", _clamp_text(count))
        for name, count in work.converted.clamped.items()
    ]
    if work.converted.constants or work.plan.ports:
        return None
    work.skipped += work.converted.kept
    if not work.prepared.has_floats:
        return "it has no float32 values to convert"
    reasons = main_reasons(row for row in work.skipped if row.what == STEP)
    return f"nothing can be converted: {reasons or 'it has no float32 constants'}"


def _verify(work: _Conversion) -> None:
    """Measure the SQNR of the result against the float32 outputs.

    Raises:
        VerificationError: ONNX Runtime refuses the result, or an output is not finite.
    """
    if isinstance(work.reference, Skipped):
        work.skipped.append(work.reference)
        return
    known = work.sqnr_db
    sqnr_db = work.reference.sqnr_db(work.model) if known is None else known
    noise = "exact" if sqnr_db == math.inf else f"{sqnr_db:.1f} dB"
    work.fidelity = f"{noise} on {'samples' if work.reference.real else 'generated inputs'}"


def _report(work: _Conversion) -> ToFloat16Report:
    converted, nodes = work.converted, sum(1 for _ in iter_nodes(work.prepared.model))
    return ToFloat16Report(
        changed=True,
        summary=(
            f"{len(work.plan.ports)} of {nodes} nodes compute in "
            f"{work.options.dtype}, {converted.constants} constants are stored in it; "
            f"{size_bytes(work.source):,} -> {size_bytes(work.model):,} bytes of tensors; "
            f"{work.fidelity}; smaller, not faster on CPU"
        ),
        changes=ToFloat16Changes(
            nodes_converted=len(work.plan.ports),
            constants_converted=converted.constants,
            casts_inserted=converted.casts,
        ),
        skipped=tuple(work.skipped),
        seconds=time.perf_counter() - work.start,
    )


def _half_values(model: ir.Model, plan: HalfPlan) -> list[str]:
    """Return the names of the values of the main graph that would have 16 bits."""
    inputs = set(model.graph.inputs)
    names: dict[str, None] = {}
    for node in model.graph:
        if (ports := plan.ports.get(node)) is None:
            continue
        read = [node.inputs[i] for i in ports.inputs]
        made = [node.outputs[i] for i in ports.outputs]
        for value in (*read, *made):
            if value is not None and value.name and (value in inputs or value.producer()):
                names[value.name] = None
    return list(names)


def _clamp_text(clamped: int) -> str:
    if clamped:
        return f"{clamped} numbers out of range were clamped; give samples to keep them in float32"
    return "it would be zero in 16 bits and became the smallest number above zero"
