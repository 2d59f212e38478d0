"""Half precision: weights and activations of 16 bits, types correct through the whole graph."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate.reductions import collect_magnitudes
from onnxlite.errors import OptionError
from onnxlite.graph import iter_nodes
from onnxlite.model import ModelLike, clone, in_kind, load, size_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.core.prepare import already_quantized
from onnxlite.quantize.float16.bias_correction import correct_biases
from onnxlite.quantize.float16.convert import IoType, Prepared, computed, convert
from onnxlite.quantize.float16.fallback import fall_back
from onnxlite.quantize.float16.plan import STEP, HalfPlan, constant_roundings
from onnxlite.quantize.float16.verify import Float16Reference, float16_reference
from onnxlite.records import (
    Progress,
    ReportSink,
    Skipped,
    StepReport,
    announce,
    no_progress,
    unchanged,
)
from onnxlite.samples import Samples, SamplesLike, input_specs

logger = logging.getLogger(__name__)


HalfType = Literal["float16", "bfloat16"]
#: `"compute"`: nodes work on 16 bits; `"storage"`: constants are cast back to float32.
HalfMode = Literal["compute", "storage"]

_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: Cast knows bfloat16 from this operator set on.
_BFLOAT16_OPSET = 13


@dataclass(frozen=True, kw_only=True)
class HalfOptions:
    """The options of `to_float16`, which tells what they mean."""

    keep: tuple[str, ...] = ()
    io: IoType = "keep"
    dtype: HalfType = "float16"
    mode: HalfMode | None = None
    limit: int | None = None
    threads: int | None = None

    def check(self) -> None:
        """Raise `OptionError` for an unknown word or a pair that does not go together."""
        if self.io not in ("keep", "float16"):
            raise OptionError(f"io={self.io!r}: use 'keep' or 'float16'")
        if self.dtype not in _DTYPES:
            raise OptionError(f"dtype={self.dtype!r}: use 'float16' or 'bfloat16'")
        if self.mode not in (None, "compute", "storage"):
            raise OptionError(f"mode={self.mode!r}: use 'compute' or 'storage'")
        if self.dtype == "bfloat16" and (self.mode == "compute" or self.io == "float16"):
            raise OptionError(
                "ONNX Runtime's CPU kernels do not compute in bfloat16: use it with "
                "mode='storage' and io='keep', or use dtype='float16'"
            )


@in_kind
def to_float16(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    keep: Sequence[str] = (),
    io: IoType = "keep",
    dtype: HalfType = "float16",
    mode: HalfMode | None = None,
    limit: int | None = None,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Convert float32 weights and activations to 16 bits: half the size, not faster on CPU.

    Every node that onnx's schemas allow computes in float16; the others, and the borders of
    subgraphs, stay float32 with casts between. Constants that are not representable are
    clamped and named in the report. With samples, what leaves the range of float16 on them
    stays float32. float64 and integers stay as they are; so does a quantized model.

    Works tensor by tensor: memory is bounded by the largest tensor.

    Args:
        model: a path, a `ModelProto` or an `ir.Model`; it is not changed.
        samples: unlabelled inputs, in any form of `SamplesLike`, to find overflow on and to
            check the result. Where that is below 53 dB, some parts stay float32, and layers get
            biases that take back what rounding shifts. Without them the result is checked on
            generated inputs if the model holds at most 1 GiB.
        keep: patterns (`fnmatch`) of node or operator names that stay float32.
        io: `"keep"` leaves the types of inputs and outputs, `"float16"` converts them, too.
        dtype: `"bfloat16"` has float32's range and 8 bits of precision, which leaves 18 dB
            less than float16; ONNX Runtime has no kernels for it on CPU, so it is for
            `mode="storage"` only.
        mode: `"compute"` makes activations and operators float16; ONNX Runtime on x86 casts
            most of them back to float32 at each run. `"storage"` stores only weights in 16
            bits; ONNX Runtime casts them once at load and runs at the speed of float32. None
            is `"compute"` for float16 and `"storage"` for bfloat16.
        limit: use at most this many samples.
        threads: of ONNX Runtime; None takes all cores.
        on_report: called with the `StepReport`: what stays float32 and why.
        progress: called as constants are read and samples are run.

    Returns:
        The converted model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if nothing could be converted.

    Raises:
        OptionError: an unknown option, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        VerificationError: ONNX Runtime refuses the result, or an output is NaN or infinite
            where the original's is not.
    """
    options = HalfOptions(
        keep=tuple(keep), io=io, dtype=dtype, mode=mode, limit=limit, threads=threads
    )
    result, report = to_float16_ir(load(model), samples, options, progress=progress)
    announce(report, on_report, logger)
    return result


def to_float16_ir(
    model: ir.Model,
    samples: SamplesLike | None = None,
    options: HalfOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> tuple[ir.Model, StepReport]:
    """Convert a private copy of a model; see `to_float16`."""
    start = time.perf_counter()
    options = options or HalfOptions()
    options.check()
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
    roundings = constant_roundings(model, dtype, progress)
    ready = Prepared(model, dtype, options.io, roundings, untyped)
    check = float16_reference(source, feeds, threads=options.threads)
    plan = _plan(ready, options, feeds, check, progress)
    if feeds is not None and plan.ports and isinstance(check, Float16Reference):
        correct_biases(ready, plan, feeds, check, threads=options.threads, progress=progress)
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
        sqnr = check.sqnr_db(result.model, threads=options.threads)
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
    options: HalfOptions,
    feeds: Samples | None,
    check: Float16Reference | Skipped,
    progress: Progress,
) -> HalfPlan:
    """Which nodes compute in 16 bits, by types and names and by what the samples show."""
    plan = HalfPlan(ready.model, ready.dtype)
    plan.keep_named(ready.model, options.keep)
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
        threads=options.threads,
        progress=progress,
    )
    plan.keep_out_of_range(ready.model, found, ready.dtype)
    return fall_back(ready, plan, check, threads=options.threads, progress=progress)


def _halved(model: ir.Model, plan: HalfPlan) -> list[str]:
    """The values of the main graph that would be 16 bits wide."""
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
        return f"{clamped} numbers beyond the range were clamped to it; give samples to keep them"
    return "it would be zero in 16 bits and became the smallest number above it"
