"""Static quantization: float model and samples in, QDQ model out.

place (which nodes) -> calibrate (ranges) -> scales -> emit (Q and DQ nodes) -> verify.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.errors import VerificationError
from onnxlite.graph import const_array
from onnxlite.model import clone, size_bytes
from onnxlite.ops import spec_of
from onnxlite.quantize.accuracy.equalize import equalize
from onnxlite.quantize.accuracy.gptq import round_with_gptq
from onnxlite.quantize.accuracy.smoothquant import apply_smoothquant
from onnxlite.quantize.core.activation_bits import OPSET as OPSET_16
from onnxlite.quantize.core.activation_bits import assign_activation_bits
from onnxlite.quantize.core.emit_qdq import QDQEmitter
from onnxlite.quantize.core.options import StaticOptions
from onnxlite.quantize.core.ort_workarounds import guard_float_layers
from onnxlite.quantize.core.prepare import OPSET, already_quantized, pool_means, prepare
from onnxlite.quantize.core.qtypes import dequantize
from onnxlite.quantize.core.scales import activation_params
from onnxlite.quantize.core.selection import Placement, place
from onnxlite.quantize.core.strip import strip_metadata
from onnxlite.quantize.core.targets import Target, target_named
from onnxlite.quantize.dynamic.embeddings import write_embeddings
from onnxlite.quantize.placement.search import fastest_placement
from onnxlite.quantize.static.emit_qoperator import to_qoperator
from onnxlite.quantize.static.hardswish_decomposition import decompose_hardswish
from onnxlite.quantize.static.nhwc_boundary import add_nhwc_boundaries
from onnxlite.quantize.static.packed_weights import pack_weights
from onnxlite.quantize.static.ranges import calibrate_ranges
from onnxlite.records import Declined, LayerRow, Progress, StepReport, silent, unchanged
from onnxlite.repair.layerwise_rounding import RoundedLayer
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike, input_specs

_STEP = "quantize-static"


def quantize_static_ir(
    model: ir.Model,
    samples: SamplesLike,
    options: StaticOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model; see `onnxlite.quantize_static`."""
    start = time.perf_counter()
    options = options or StaticOptions()
    row = target_named(options.target).offering(options.form, options.int16)
    row = row.with_weight_bits(options.weight_bits)
    source = clone(model)
    feeds = Samples(samples, input_specs(source), limit=options.limit)
    if reason := already_quantized(model):
        return source, unchanged(_STEP, reason, (), start)
    ready, declined = prepare(model, OPSET_16 if options.int16 else OPSET)
    if isinstance(ready, Declined):
        return source, unchanged(_STEP, ready.reason, declined, start)
    model = ready
    pooled = pool_means(model)
    infer_shapes(model)
    smoothed = apply_smoothquant(model, feeds, options, integers_before=True, progress=progress)
    placement = place(model, row, include=options.include, exclude=options.exclude)
    if not any(_weight_port(node) is not None for node in placement.nodes):
        declined += placement.declined
        return source, unchanged(_STEP, "no layer can be quantized", declined, start)
    widths, unused = assign_activation_bits(placement, options.int16)
    declined += unused
    choice = calibrate_ranges(model, placement, feeds, row, options, widths, progress=progress)
    declined += choice.declined
    params = activation_params(placement, choice.ranges, row, widths)
    found = fastest_placement(source, model, placement, params, feeds, row, options, progress)
    settled = _settled(placement, found.placement, options)
    placement, params = found.placement, {v: params[v] for v in found.placement.values}
    declined += placement.declined
    layers = [node for node in placement.nodes if _weight_port(node) is not None]
    if not layers:
        return source, unchanged(_STEP, found.note, declined, start)
    scaled = _equalized(model, placement, feeds, row, options)
    if isinstance(scaled, Declined):
        declined.append(scaled)
    elif scaled:
        # Equalized channels fill their tensor's range: what "auto" would cut off is no outlier.
        asked = replace(options, observer="minmax") if options.observer == "auto" else options
        choice = calibrate_ranges(model, placement, feeds, row, asked, widths, progress=progress)
        params = activation_params(placement, choice.ranges, row, widths)
    float_model = clone(model)
    emitter = QDQEmitter(model, placement, row, widths)
    for value, value_params in params.items():
        emitter.activation(value, value_params)
    fitted = _fitted(model, float_model, layers, feeds, row, options, progress)
    if isinstance(fitted, Declined):
        declined.append(fitted)
        fitted = {}
    rows = _emit(emitter, layers, row, fitted)
    guard_float_layers(model)
    model, pieces, none = decompose_hardswish(model, next(iter(feeds)), row, progress=progress)
    declined += none
    model, borders, none = add_nhwc_boundaries(model, row)
    declined += none
    if options.form == "qoperator":
        to_qoperator(model, next(iter(feeds)))
    tables = write_embeddings(model, row, options)
    narrow = 0 if options.weight_bits == 8 else pack_weights(model, options.weight_bits)
    strip_metadata(model, row)
    sqnr = _verify(float_model, model, feeds)
    return model, StepReport(
        step=_STEP,
        changed=True,
        summary=(
            f"{len(layers)} layers on integers, {_stay_float(placement)} stay float{found.note}; "
            f"weights {size_bytes(source):,} -> {size_bytes(model):,} bytes; "
            f"{'exact' if sqnr is None else f'{sqnr:.1f} dB'} on the first calibration batch"
        ),
        changes={
            "layers-quantized": len(layers),
            "activations-absorbed": len(placement.absorbed) if row.absorbs else 0,
            "values-quantized": len(placement.values),
            "means-pooled": pooled,
            "values-smoothed": len(smoothed),
            "hardswish-in-pieces": pieces,
            "borders-channels-last": borders,
            "channels-equalized": 0 if isinstance(scaled, Declined) else scaled,
            "tables-quantized": len(tables),
            "weights-packed": narrow,
        },
        declined=tuple(declined),
        layers=(*rows, *tables, *smoothed),
        settled=settled,
        seconds=time.perf_counter() - start,
    )


def _settled(everything: Placement, found: Placement, options: StaticOptions) -> dict[str, Any]:
    """The options that name a placement which was measured."""
    if options.placement == "everything":
        return {}
    floats = [node.name or "" for node in everything.nodes if node not in set(found.nodes)]
    return {"placement": "everything", "exclude": (*options.exclude, *map(escape, floats))}


def _equalized(
    model: ir.Model,
    placement: Placement,
    feeds: Samples,
    row: Target,
    options: StaticOptions,
) -> int | Declined:
    """Channels scaled up in place, if that pays."""
    if not options.equalize:
        return 0
    return equalize(model, placement, feeds, row, threads=options.threads)


def _fitted(
    model: ir.Model,
    float_model: ir.Model,
    layers: Sequence[ir.Node],
    feeds: Samples,
    row: Target,
    options: StaticOptions,
    progress: Progress,
) -> dict[str, RoundedLayer] | Declined:
    """Weights on their grid, by layer; none where the nearest integers are asked for."""
    if options.rounding == "nearest":
        return {}
    return round_with_gptq(
        model, float_model, layers, feeds, row, threads=options.threads, progress=progress
    )


def _weight_port(node: ir.Node) -> int | None:
    rule = spec_of(node).quant
    return rule.weight if rule is not None else None


def _stay_float(placement: Placement) -> int:
    return len({d.where for d in placement.declined})


def _emit(
    emitter: QDQEmitter,
    layers: Sequence[ir.Node],
    target: Target,
    fitted: Mapping[str, RoundedLayer],
) -> list[LayerRow]:
    weights = {node: const_array(node.inputs[_weight_port(node) or 0]) for node in layers}
    rows = []
    for node, weight in weights.items():
        assert weight is not None
        new = fitted.get(node.name or "")
        scale = None if new is None else new.scale
        integers, weight_params = emitter.layer(node, target, scale)
        values: dict[str, str | int | float | bool | None] = {
            "weights": weight.size,
            "channels": weight_params.scale.size,
            "weight_sqnr_db": _sqnr_db(weight, dequantize(integers, weight_params)),
        }
        if new is not None:
            values |= {"error_nearest": new.error_before, "error": new.error}
        rows.append(LayerRow(node.name or "", node.op_type, values))
    return rows


def _sqnr_db(reference: NDArray[Any], approximation: NDArray[Any]) -> float | None:
    """Signal to quantization noise ratio in dB; None where there is no noise or no signal."""
    signal = reference.astype(np.float64)
    noise = float(((signal - approximation) ** 2).sum())
    power = float((signal**2).sum())
    return round(10 * float(np.log10(power / noise)), 2) if noise and power else None


def _verify(reference: ir.Model, quantized: ir.Model, feeds: Samples) -> float | None:
    """Run both on the first feed; the worst output's SQNR in dB.

    Raises:
        VerificationError: an output is not finite where the original's is.
        ExecutionError: ONNX Runtime refuses the quantized model.
    """
    feed = next(iter(feeds))
    expected, got = Session(reference).run(feed), Session(quantized).run(feed)
    worst: list[float] = []
    for name, want in expected.items():
        if want.dtype.kind != "f":
            continue
        if np.isfinite(want).all() and not np.isfinite(got[name]).all():
            raise VerificationError(
                f"output {name!r} of the quantized model is NaN or infinite on the first "
                "calibration batch: exclude the layers before it and report this"
            )
        sqnr = _sqnr_db(want, got[name])
        worst += [] if sqnr is None else [sqnr]
    return min(worst, default=None)
