"""Static quantization: float model and samples in, model with integer weights and activations out.

prepare -> place -> calibrate -> keep the faster part -> equalize -> emit -> finish

Each phase reads and writes one `_Quantization`, and says why nothing can be quantized if that is
what it finds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Set
from dataclasses import dataclass, field, replace
from glob import escape
from typing import Any

import onnx_ir as ir
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray

from onnxlite.analysis.quantized_model import QUANTIZE_ONCE, already_quantized, computed_weights
from onnxlite.analysis.shapes import infer_shapes
from onnxlite.builder import GraphBuilder
from onnxlite.fidelity import Reference
from onnxlite.graph import const_array, iter_nodes
from onnxlite.holdout import SampleStream, hold_out_candidates
from onnxlite.model import clone, size_bytes
from onnxlite.patterns import check_patterns
from onnxlite.quantize.accuracy.equalize import equalize
from onnxlite.quantize.accuracy.gptq import round_with_gptq
from onnxlite.quantize.accuracy.smoothquant import apply_smoothquant
from onnxlite.quantize.core.activation_bits import OPSET as OPSET_16
from onnxlite.quantize.core.activation_bits import assign_activation_bits
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.integer_copies import IntegerCopies
from onnxlite.quantize.core.options import (
    QuantizedLayer,
    QuantizedTable,
    QuantizeStatic,
    QuantizeStaticChanges,
    QuantizeStaticReport,
    ResolvedPlacement,
    SmoothedValue,
)
from onnxlite.quantize.core.ort_workarounds import guard_float_layers
from onnxlite.quantize.core.plan import NOTHING_PLACED, Placement, QuantPlan, weight_port
from onnxlite.quantize.core.prepare import OPSET, pool_means, prepare
from onnxlite.quantize.core.qtypes import QParams, dequantize
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import layer_patterns, nothing_placed, place
from onnxlite.quantize.core.strip import strip_metadata
from onnxlite.quantize.core.targets import target_named
from onnxlite.quantize.core.weights import weight_sqnr_db
from onnxlite.quantize.dynamic.embeddings import write_embeddings
from onnxlite.quantize.placement.search import fastest_placement
from onnxlite.quantize.static.emit_qoperator import to_qoperator
from onnxlite.quantize.static.hold_out import hold_out_record
from onnxlite.quantize.static.packed_weights import pack_weights
from onnxlite.quantize.static.ranges import RangeChoice, calibrate_ranges
from onnxlite.records import Skipped
from onnxlite.repair.layerwise_rounding import RoundedLayer
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, StepState


@dataclass(kw_only=True)
class _Quantization(StepState[QuantizeStatic]):
    """State of one quantization: the model gets integers in `_emit`.

    Attributes:
        plan: the model, and what becomes integers in it; the model is float up to `_emit`.
        params: scale and zero point of every value of the plan.
        float_model: the model just before integers came in.
        note: how fast the placement was measured to be, for the summary.
        changes: how often each kind of change was made.
        layers: rows of the layers on integers.
        tables: rows of the look-up tables in 8 bits.
        smoothed: rows of the smoothed activations.
        own_nodes: names of the nodes before smoothing adds some.
        resolved: options that name the placement, if it was measured.
        stream: the calibration samples, by number.
        candidates: numbers of samples that may be held out; nothing is fitted to them.
        copies: the integers of weights, for what reads them as float.
        ranges: ranges of all activations, and what they leave out.
    """

    plan: QuantPlan = field(init=False)
    float_model: ir.Model = field(init=False)
    params: dict[ir.Value, QParams] = field(default_factory=dict)
    note: str = ""
    changes: QuantizeStaticChanges = field(default_factory=QuantizeStaticChanges)
    layers: list[QuantizedLayer] = field(default_factory=list)
    tables: list[QuantizedTable] = field(default_factory=list)
    smoothed: list[SmoothedValue] = field(default_factory=list)
    own_nodes: Set[str] = frozenset()
    resolved: ResolvedPlacement | None = None
    stream: SampleStream = field(init=False)
    candidates: list[int] = field(default_factory=list)
    copies: IntegerCopies = field(default_factory=IntegerCopies)
    ranges: RangeChoice = field(init=False)

    @property
    def feeds(self) -> Samples:
        """The calibration samples."""
        assert self.samples is not None
        return self.samples

    @property
    def fitted(self) -> Samples:
        """The samples that weights and ranges may be fitted to."""
        return self.stream.without({*self.ranges.held_out, *self.ranges.outliers})


def quantize_static_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: QuantizeStatic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeStaticReport]:
    """Quantize a copy of a model; see `onnxlite.quantize_static`."""
    work = _Quantization.begin(model, samples, options, context)
    phases = (_prepare, _place, _calibrate, _keep_faster, _equalize, _emit, _finish)
    return work.run(phases, _report)


def _prepare(work: _Quantization) -> str | None:
    """Bring the model into the form that integers need, and smooth outliers."""
    options = work.options
    target = target_named(options.target).offering(options.form, options.int16)
    if reason := already_quantized(work.source, QUANTIZE_ONCE):
        return reason
    ready, skipped = prepare(work.model, OPSET_16 if options.int16 else OPSET)
    work.skipped += skipped
    if isinstance(ready, Skipped):
        return ready.message
    work.changes += QuantizeStaticChanges(means_pooled=pool_means(ready))
    work.options = options = replace_fields(
        options,
        include=layer_patterns(ready, options.include),
        exclude=layer_patterns(ready, options.exclude),
    )
    work.own_nodes = {node.name or "" for node in iter_nodes(ready)}
    check_patterns(options.int16, work.own_nodes, what="node", compared="the names of nodes")
    infer_shapes(ready)
    work.stream = SampleStream(work.feeds)
    work.candidates = hold_out_candidates(work.stream)
    work.smoothed, skipped = apply_smoothquant(
        ready,
        work.stream.without(work.candidates),
        options,
        integers_before=True,
        progress=work.context.progress,
    )
    work.skipped += skipped
    work.changes += QuantizeStaticChanges(values_smoothed=len(work.smoothed))
    work.plan = QuantPlan(ready, NOTHING_PLACED, target.with_weight_bits(options.weight_bits))
    return None


def _place(work: _Quantization) -> str | None:
    """Find all nodes that can run on integers, and the width of their activations."""
    options, plan = work.options, work.plan
    placement = place(plan.model, plan.target, include=options.include, exclude=options.exclude)
    if not placement.layers:
        work.skipped += placement.skipped
        reason = computed_weights(work.source, QUANTIZE_ONCE)
        return reason or nothing_placed(placement)
    activation_bits, unused = assign_activation_bits(placement, options.int16)
    work.skipped += unused
    work.plan = replace(plan, placement=placement, activation_bits=activation_bits)
    return None


def _calibrate(work: _Quantization) -> None:
    """Find the ranges of all activations, and their scales and zero points."""
    observer = work.options.observer
    work.ranges = calibrate_ranges(
        work.plan, work.feeds, observer, work.context, hold_out=work.candidates
    )
    work.skipped += work.ranges.skipped
    work.params = activation_params(work.plan, work.ranges.ranges)


def _keep_faster(work: _Quantization) -> str | None:
    """Leave in float what is measured to be slower on integers."""
    everything = work.plan.placement
    found = fastest_placement(
        work.source, work.plan, work.params, work.feeds, work.options, work.context.progress
    )
    work.skipped += found.placement.skipped
    work.note = found.note
    if not found.placement.layers:
        return found.note
    work.resolved = _resolved_placement(everything, found.placement, work)
    work.plan = replace(work.plan, placement=found.placement)
    work.params = {value: work.params[value] for value in found.placement.values}
    return None


def _resolved_placement(
    everything: Placement, found: Placement, work: _Quantization
) -> ResolvedPlacement | None:
    """Options that name a measured placement.

    A node that smoothing has added is not named: it comes with the layers that it serves.
    """
    options = work.options
    if not work.note:
        return None
    chosen = set(found.nodes)
    left = [node.name or "" for node in everything.nodes if node not in chosen]
    keep_float = [name for name in left if name in work.own_nodes]
    return ResolvedPlacement(exclude=(*options.exclude, *map(escape, keep_float)))


def _equalize(work: _Quantization) -> None:
    """Scale channels up that use little of their tensor's range, and calibrate again."""
    options = work.options
    if not options.equalize:
        return
    count = equalize(work.plan, work.fitted, work.ranges.ranges, threads=work.context.threads)
    if isinstance(count, Skipped):
        work.skipped.append(count)
        return
    work.changes += QuantizeStaticChanges(channels_equalized=count)
    if count:
        # Equalized channels fill their tensor's range: what "auto" would cut off is no outlier.
        observer = "minmax" if options.observer == "auto" else options.observer
        again = calibrate_ranges(work.plan, work.fitted, observer, work.context)
        dropped = {*work.ranges.held_out, *work.ranges.outliers}
        numbers = [number for number in range(work.stream.total) if number not in dropped]
        work.ranges = work.ranges.recalibrated(again, numbers)
        work.params = activation_params(work.plan, again.ranges)


def _emit(work: _Quantization) -> None:
    """Write Q and DQ nodes, and the weights as integers."""
    plan, options = work.plan, work.options
    work.float_model = clone(plan.model)
    emitter = QDQEmitter(plan)
    work.copies = emitter.copies
    emitter.activations(work.params)
    # The rounding writes fitted weights; the report compares with those that came in.
    weights = {node: const_array(node.inputs[weight_port(node) or 0]) for node in plan.layers}
    rounded: dict[str, RoundedLayer] = {}
    if options.rounding != "nearest":
        # Weights are fitted on the integer activations, which are in the model by now.
        rounded, skipped = round_with_gptq(
            plan,
            work.float_model,
            work.fitted,
            best=options.effort == "best",
            context=work.context,
        )
        work.skipped += skipped
    for node, weight in weights.items():
        assert weight is not None
        work.layers.append(_emit_layer(emitter, node, weight, rounded.get(node.name or "")))
    work.changes += QuantizeStaticChanges(
        layers_quantized=len(plan.layers),
        values_quantized=len(plan.placement.values),
        activations_absorbed=len(plan.placement.absorbed) if plan.target.absorbs else 0,
    )
    work.model = plan.model


def _emit_layer(
    emitter: QDQEmitter, node: ir.Node, weight: NDArray[Any], rounded: RoundedLayer | None
) -> QuantizedLayer:
    integers, params = emitter.layer(node, None if rounded is None else rounded.scale)
    return QuantizedLayer(
        name=node.name or "",
        op_type=node.op_type,
        weights=weight.size,
        channels=params.scale.size,
        weight_sqnr_db=weight_sqnr_db([(weight, dequantize(integers, params))]),
        error_nearest=None if rounded is None else rounded.error_before,
        error=None if rounded is None else rounded.error,
    )


def _finish(work: _Quantization) -> None:
    """Rewrite the QDQ model for its runtime, form and size."""
    model, target, options = work.model, work.plan.target, work.options
    guard_float_layers(model)
    work.copies.decode(GraphBuilder(model))
    if options.form == "qoperator":
        to_qoperator(model, next(iter(work.feeds)))
    work.tables = write_embeddings(model, target, options)
    packed = 0 if options.weight_bits == 8 else pack_weights(model, options.weight_bits)
    work.changes += QuantizeStaticChanges(tables_quantized=len(work.tables), weights_packed=packed)
    strip_metadata(model, target)


def _report(work: _Quantization) -> QuantizeStaticReport:
    """Check the result on the samples held out and describe it.

    Raises:
        VerificationError: an output is not finite where the original's is.
        ExecutionError: ONNX Runtime refuses the quantized model.
    """
    held_out = work.stream.single(work.ranges.held_out)
    record = hold_out_record(len(held_out))
    errors = Reference(work.float_model, held_out or [next(iter(work.fitted))]).errors(work.model)
    errors.check_finite("the quantized model", "exclude the layers before it and report this")
    fidelity = "exact" if math.isinf(errors.worst_db) else f"{errors.worst_db:.1f} dB"
    in_float = {skipped.node for skipped in work.plan.placement.skipped}
    return QuantizeStaticReport(
        changed=True,
        summary=(
            f"{len(work.plan.layers)} layers on integers, {len(in_float)} stay float{work.note}; "
            f"weights {size_bytes(work.source):,} -> {size_bytes(work.model):,} bytes; "
            f"{fidelity} on {record}"
        ),
        changes=work.changes,
        skipped=tuple(work.skipped),
        layers=tuple(work.layers),
        tables=tuple(work.tables),
        smoothed_values=tuple(work.smoothed),
        resolved_options=work.resolved,
        hold_out=record,
        cut_ranges=work.ranges.cut,
        sqnr_db=None if math.isinf(errors.worst_db) else errors.worst_db,
        seconds=time.perf_counter() - work.start,
    )
