"""Conversion to float16 or bfloat16: weights, and activations where possible."""

from __future__ import annotations

import logging
import math
import time

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate.reductions import collect_magnitudes
from onnxlite.graph import iter_nodes
from onnxlite.model import clone, size_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.core.prepare import already_quantized
from onnxlite.quantize.float16.convert import Prepared, computed, convert
from onnxlite.quantize.float16.fallback import fall_back
from onnxlite.quantize.float16.options import ToFloat16
from onnxlite.quantize.float16.plan import STEP, HalfPlan, constant_roundings
from onnxlite.quantize.float16.verify import Float32Outputs, float32_outputs
from onnxlite.records import Skipped, StepReport, unchanged
from onnxlite.samples import Samples, SamplesLike, input_specs
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)


_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: First opset in which Cast supports bfloat16.
_BFLOAT16_OPSET = 13


def to_float16_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: ToFloat16,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Convert a private copy of a model; see `onnxlite.to_float16`."""
    start = time.perf_counter()
    source, dtype = clone(model), _DTYPES[options.dtype]
    feeds = None
    if samples is not None:
        feeds = Samples(samples, input_specs(source), limit=options.limit)
    if reason := already_quantized(model):
        return source, unchanged(STEP, reason, (), start)
    skipped = list(normalize(model))
    if options.dtype == "bfloat16":
        upgraded = upgrade_opset(model, _BFLOAT16_OPSET)
        if isinstance(upgraded, Skipped):
            return source, unchanged(STEP, upgraded.message, [*skipped, upgraded], start)
        model = upgraded
        normalize(model)
    untyped = [value for value in computed(model) if value.type is None]
    skipped += infer_shapes(model, symbolic=False)
    roundings = constant_roundings(model, dtype, context.progress)
    ready = Prepared(model, dtype, options.io, roundings, untyped)
    check = float32_outputs(source, feeds, threads=context.threads)
    plan = _plan(ready, options, feeds, check, context)
    result = convert(ready, plan)
    skipped += plan.skipped
    skipped += [
        Skipped(STEP, name, "clamped", _clamp_text(count)) for name, count in result.clamped.items()
    ]
    if not result.constants and not plan.ports:
        return source, unchanged(STEP, "it has no float32 values to convert", skipped, start)
    if isinstance(check, Skipped):
        skipped.append(check)
        verdict = "not run"
    else:
        sqnr = check.sqnr_db(result.model)
        verdict = "exact" if sqnr == math.inf else f"{sqnr:.1f} dB"
        verdict += " on samples" if check.real else " on generated inputs"
    return result.model, StepReport(
        step=STEP,
        changed=True,
        summary=(
            f"{len(plan.ports)} of {sum(1 for _ in iter_nodes(model))} nodes compute in "
            f"{options.dtype}, {result.constants} constants are stored in it; "
            f"{size_bytes(source):,} -> {size_bytes(result.model):,} bytes of tensors; "
            f"{verdict}; smaller, not faster on CPU"
        ),
        changes={
            "nodes-converted": len(plan.ports),
            "constants-converted": result.constants,
            "casts-inserted": result.casts,
        },
        skipped=tuple(skipped),
        seconds=time.perf_counter() - start,
    )


def _plan(
    ready: Prepared,
    options: ToFloat16,
    feeds: Samples | None,
    check: Float32Outputs | Skipped,
    context: StepContext,
) -> HalfPlan:
    """Which nodes compute in 16 bits, by types and names and by what the samples show."""
    plan = HalfPlan(ready.model, ready.dtype)
    plan.keep_named(ready.model, options.exclude)
    if options.mode == "storage" or options.dtype == "bfloat16":
        plan.only_store()
        return plan
    plan.keep_unfit_constants(ready.model, ready.roundings, clamp=feeds is None)
    if feeds is None or isinstance(check, Skipped):
        return plan
    found = collect_magnitudes(
        ready.model,
        _halved(ready.model, plan),
        feeds,
        threads=context.threads,
        progress=context.progress,
    )
    plan.keep_out_of_range(ready.model, found, ready.dtype)
    return fall_back(ready, plan, check, progress=context.progress)


def _halved(model: ir.Model, plan: HalfPlan) -> list[str]:
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
