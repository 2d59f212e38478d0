"""Weight-only quantization: weights of few bits, activations in float.

prepare -> select -> plan -> fit -> write -> verify

Each phase reads and writes one `_Quantization`. It returns a reason if nothing can be quantized.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import msgspec
import onnx_ir as ir

from onnxlite.analysis.quantized_model import (
    QUANTIZE_ONCE,
    already_quantized,
    computed_weights,
)
from onnxlite.builder import GraphBuilder
from onnxlite.errors import OptionError
from onnxlite.graph import node_name
from onnxlite.inputs import Feed
from onnxlite.model import clone, size_bytes, to_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.packing import weight_type
from onnxlite.quantize.weight_only.bit_allocation import FileSize, allocate_bits
from onnxlite.quantize.weight_only.decode_graph import OPSET, Decoder, PackedTensor, load_nbytes
from onnxlite.quantize.weight_only.fit import FitTarget, fit_weights
from onnxlite.quantize.weight_only.fp16_initializers import store_in_float16
from onnxlite.quantize.weight_only.kernels import (
    EXACT,
    INT8,
    KernelWeight,
    KernelWriter,
    set_accuracy_level,
    to_kernel_layout,
    why_not_packed,
)
from onnxlite.quantize.weight_only.options import (
    QuantizeWeights,
    QuantizeWeightsChanges,
    QuantizeWeightsReport,
)
from onnxlite.quantize.weight_only.plan import WeightPlan, plan_weight
from onnxlite.quantize.weight_only.selection import STEP, Weight, select
from onnxlite.quantize.weight_only.verify import (
    LOADED_BELOW_BYTES,
    check_decoders,
    check_kernels,
    check_model,
    reference_outputs,
)
from onnxlite.records import Skipped, main_reasons
from onnxlite.samples import SamplesLike
from onnxlite.step import StepContext, StepState

#: Number of feeds on which the result is compared with the float model.
_CHECKED_FEEDS = 4
#: Up to 6 bits the rounding error of float16 is far below that of the weights.
_MAX_LEVELS_FOR_FLOAT16 = 64
#: Models that need more memory than this for decoding are not run as a whole; the report says so.
_MAX_LOAD_BYTES = 1 << 31
#: Up to 4 bits the error of the weights is tens of dB above that of int8 activations with one
#: scale per block.
_MAX_LEVELS_FOR_INT8 = 16
#: Largest SQNR loss of int8 activations, and the SQNR at which any loss is accepted.
_MAX_INT8_LOSS_DB, _ENOUGH_DB = 0.5, 30.0


@dataclass(kw_only=True)
class _Quantization(StepState[QuantizeWeights]):
    """State of one quantization: the model is float up to `_write`.

    Attributes:
        feeds: the first samples, for checks.
        weights: the weights to quantize.
        plans: one plan per weight that gets few bits.
        by_kernel: the weights that kernels read, in both layouts.
        float16_initializers: number of other initializers stored in float16.
        sqnr_db: SQNR of the worst output; None if the model was not run.
    """

    feeds: list[Feed] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    plans: list[WeightPlan] = field(default_factory=list)
    by_kernel: list[tuple[KernelWeight, PackedTensor]] = field(default_factory=list)
    float16_initializers: int = 0
    sqnr_db: float | None = None

    @property
    def loadable(self) -> bool:
        """True if the model is small enough to load as a whole."""
        return size_bytes(self.source) < LOADED_BELOW_BYTES


def quantize_weights_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeWeights,
    context: StepContext,
) -> tuple[ir.Model, QuantizeWeightsReport]:
    """Quantize the weights of a copy; see `onnxlite.quantize_weights`."""
    work = _Quantization.begin(model, samples, options, context)
    return work.run((_prepare, _select, _plan, _fit, _write, _verify), _report)


def _prepare(work: _Quantization) -> str | None:
    """Normalize the model, upgrade its opset and resolve the method in the options."""
    work.skipped += normalize(work.model)
    upgraded = upgrade_opset(work.model, OPSET)
    if isinstance(upgraded, Skipped):
        work.skipped.append(upgraded)
        return upgraded.message
    if upgraded is not work.model:
        work.model = upgraded
        normalize(upgraded)  # the version converter adds Constant nodes
    if work.samples is not None:
        work.feeds = list(islice(work.samples, _CHECKED_FEEDS))
    elif work.options.method == "gptq":
        raise OptionError(
            "method='gptq' fits weights to samples: give samples, or use method='rtn'"
        )
    elif work.options.method == "auto":
        work.options = msgspec.structs.replace(
            work.options, method="hqq" if work.loadable else "rtn"
        )
    return None


def _select(work: _Quantization) -> str | None:
    """Select the weights to quantize."""
    work.weights, skipped = select(work.model, work.options)
    work.skipped += skipped
    if work.weights:
        return None
    reason = already_quantized(work.source, QUANTIZE_ONCE)
    reason = reason or computed_weights(work.source, QUANTIZE_ONCE)
    return reason or _with_reasons("no float weight is left to quantize", work)


def _plan(work: _Quantization) -> str | None:
    """Choose the width and the codes of every weight."""
    options, threads, progress = work.options, work.context.threads, work.context.progress
    if options.max_size is not None:
        size = _file_size(work)
        work.plans = allocate_bits(work.model, work.weights, options, work.feeds, size, threads)
    else:
        for index, weight in enumerate(work.weights):
            progress(STEP, index, len(work.weights))
            plan = plan_weight(weight, options, threads)
            if isinstance(plan, WeightPlan):
                work.plans.append(plan)
            else:
                work.skipped.append(Skipped(STEP, node_name(weight.node), plan.code, plan.message))
    progress(STEP, len(work.weights), len(work.weights))
    return None if work.plans else _with_reasons("no weight would become smaller", work)


def _with_reasons(summary: str, work: _Quantization) -> str:
    reasons = main_reasons(row for row in work.skipped if row.what == STEP)
    return f"{summary}: {reasons}" if reasons else summary


def _file_size(work: _Quantization) -> FileSize:
    """Return the size of the float model and a function that measures plans."""
    if not work.loadable:
        return FileSize(size_bytes(work.source), None)

    def measure(plans: Sequence[WeightPlan]) -> int:
        """Return the bytes of the file with weights packed by these plans."""
        model = clone(work.model)
        weights = {weight.value.name: weight for weight in select(model, work.options)[0]}
        moved = [replace(plan, weight=weights[plan.name]) for plan in plans]
        trial = replace(work, model=model, plans=moved, by_kernel=[], skipped=[])
        _write(trial)
        return len(to_bytes(model))

    return FileSize(len(to_bytes(work.source)), measure)


def _fit(work: _Quantization) -> None:
    """Fit weights to the samples."""
    if work.samples is None or work.options.method not in ("auto", "gptq"):
        return
    targets = {plan.name: FitTarget(plan.kind, plan.blocks, plan.decoded()) for plan in work.plans}
    fitted, skipped = fit_weights(
        work.model,
        work.samples,
        targets,
        best=work.options.effort == "best",
        context=work.context,
    )
    work.skipped += skipped
    work.plans = [
        plan.fitted(fitted[plan.name]) if plan.name in fitted else plan for plan in work.plans
    ]


def _write(work: _Quantization) -> None:
    """Replace float weights by packed ones; store other initializers in float16."""
    model = work.model
    others = {value for graph in model.graphs() for value in graph.initializers.values()}
    builder = GraphBuilder(model, naming="none")
    decoders: dict[ir.Graph, Decoder] = {}
    for index, plan in enumerate(work.plans):
        weight, packed, base = plan.weight, plan.packed(), f"w{index}"
        if plan.by_kernel:
            rows = to_kernel_layout(weight, packed)
            work.by_kernel.append((rows, packed))
            KernelWriter(builder).write(weight, rows, base)
            continue
        reason = why_not_packed(weight) if work.options.mode == "compute" else None
        if reason is not None:
            message = f"decoded at load: {reason.message}"
            work.skipped.append(Skipped("kernel", node_name(weight.node), reason.code, message))
        graph = weight.graph
        if graph not in decoders:
            decoders[graph] = Decoder(builder, graph)
        decoded = decoders[graph].write(packed, base)
        weight.value.replace_all_uses_with(decoded)
        del graph.initializers[plan.name]
        decoded.name = plan.name
    few_bits = weight_type(work.options.bits).levels <= _MAX_LEVELS_FOR_FLOAT16
    if few_bits or work.options.max_size is not None:
        work.float16_initializers = store_in_float16(GraphBuilder(model, naming="none"), others)


def _verify(work: _Quantization) -> None:
    """Verify decoders and kernels one by one, then the whole model on samples.

    Raises:
        ExecutionError: ONNX Runtime refuses the packed model.
        VerificationError: ONNX Runtime decodes a weight wrongly, decodes it at run time, or an
            output is not finite.
    """
    packed = [(plan, plan.packed()) for plan in work.plans]
    check_decoders(
        [form for _, form in packed], [plan.name for plan in work.plans], every=work.loadable
    )
    check_kernels(work.by_kernel)
    decoding = sum(load_nbytes(form) for plan, form in packed if not plan.by_kernel)
    if decoding >= _MAX_LOAD_BYTES:
        reason = (
            f"ONNX Runtime holds about {decoding / 1e9:.1f} GB while it decodes these weights, "
            "so that they were checked one by one: with mode='compute' kernels read them as they "
            "are, and 8 bits take half of that"
        )
        work.skipped.append(Skipped("load", "", "memory", reason))
        _choose_accuracy(work, None)
        return
    reference = reference_outputs(work.source, work.feeds, work.context.threads)
    if isinstance(reference, Skipped):
        work.skipped.append(reference)
        _choose_accuracy(work, None)
        return
    work.sqnr_db = check_model(reference, work.model)
    _choose_accuracy(work, lambda: check_model(reference, work.model))


def _choose_accuracy(work: _Quantization, measure: Callable[[], float] | None) -> None:
    """Choose int8 activations for MatMulNBits, which are faster, if the SQNR allows it.

    Args:
        work: the quantization; its `sqnr_db` is that with float activations.
        measure: returns the SQNR of the model; None if it cannot be run.
    """
    if work.options.mode != "compute":
        return
    set_accuracy_level(work.model, INT8)
    if measure is None or work.sqnr_db is None:
        if weight_type(work.options.bits).levels > _MAX_LEVELS_FOR_INT8:
            set_accuracy_level(work.model, EXACT)
        return
    rounded = measure()
    if rounded >= min(work.sqnr_db - _MAX_INT8_LOSS_DB, _ENOUGH_DB):
        work.sqnr_db = rounded
    else:
        set_accuracy_level(work.model, EXACT)


def _report(work: _Quantization) -> QuantizeWeightsReport:
    rows = [plan.row() for plan in work.plans]
    bits = ", ".join(sorted({plan.kind.name for plan in work.plans}))
    quality = ""
    if work.sqnr_db is not None:
        noise = "exact" if work.sqnr_db == math.inf else f"{work.sqnr_db:.1f} dB"
        quality = f"; {noise} at the worst output on the first samples"
    return QuantizeWeightsReport(
        changed=True,
        summary=(
            f"{len(rows)} weights packed to {bits} bits; {size_bytes(work.source):,} -> "
            f"{size_bytes(work.model):,} bytes of tensors{quality}"
        ),
        changes=QuantizeWeightsChanges(
            weights_packed=len(rows), initializers_to_float16=work.float16_initializers
        ),
        skipped=tuple(work.skipped),
        layers=tuple(rows),
        seconds=time.perf_counter() - work.start,
    )
