"""Static quantization: float model and samples in, QDQ model out.

place (which nodes) -> calibrate (ranges) -> scales -> emit (Q and DQ nodes) -> verify.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.shapes import infer_shapes
from onnxlite.calibrate import collect_ranges
from onnxlite.errors import VerificationError
from onnxlite.graph import const_array, describe, iter_nodes
from onnxlite.model import clone, size_bytes
from onnxlite.normalize import normalize
from onnxlite.ops import spec_of
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.emit import Emitter
from onnxlite.quantize.placement import Placement, place
from onnxlite.quantize.prepare import pool_means
from onnxlite.quantize.qtypes import QParams, dequantize
from onnxlite.quantize.scales import activation_params
from onnxlite.quantize.targets import Target, target_named
from onnxlite.records import Declined, LayerRow, Progress, StepReport, silent
from onnxlite.runtime import Session
from onnxlite.samples import Samples, SamplesLike, input_specs

_STEP = "quantize-static"
#: Per-channel DequantizeLinear came with this opset.
_OPSET = 13
#: Operators that only a quantized model has.
_QUANTIZED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def quantize_static_ir(
    model: ir.Model,
    samples: SamplesLike,
    *,
    target: str = "cpu",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model; see `onnxlite.quantize_static`."""
    start = time.perf_counter()
    row = target_named(target)
    source = clone(model)
    feeds = Samples(samples, input_specs(source), limit=limit)
    if reason := _quantized_already(model):
        return source, _unchanged(reason, (), start)
    declined = list(normalize(model))
    upgraded = upgrade_opset(model, _OPSET)
    if isinstance(upgraded, Declined):
        return source, _unchanged(upgraded.reason, (*declined, upgraded), start)
    model = upgraded
    normalize(model)  # the converter writes Constant nodes
    infer_shapes(model)
    pooled = pool_means(model)
    infer_shapes(model)
    placement = place(model, include=include, exclude=exclude)
    declined += placement.declined
    layers = [node for node in placement.nodes if _weight_port(node) is not None]
    if not layers:
        return source, _unchanged("no layer can be quantized", tuple(declined), start)
    names = [value.name for value in placement.values if value.name]
    ranges = collect_ranges(model, names, feeds, threads=threads, progress=progress)
    params = activation_params(placement, ranges, row.activation)
    float_model = clone(model)
    rows = _emit(model, placement, params, layers, row)
    sqnr = _verify(float_model, model, feeds)
    return model, StepReport(
        step=_STEP,
        changed=True,
        summary=(
            f"{len(layers)} layers on integers, {_stay_float(placement)} stay float; weights "
            f"{size_bytes(source):,} -> {size_bytes(model):,} bytes; "
            f"{'exact' if sqnr is None else f'{sqnr:.1f} dB'} on the first calibration batch"
        ),
        changes={
            "layers-quantized": len(layers),
            "activations-absorbed": len(placement.absorbed),
            "values-quantized": len(placement.values),
            "means-pooled": pooled,
        },
        declined=tuple(declined),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _quantized_already(model: ir.Model) -> str | None:
    for node in iter_nodes(model):
        if node.op_type in _QUANTIZED_OPS or node.op_type.startswith("QLinear"):
            return (
                f"the model is quantized already: it has a {describe(node)}; "
                "quantize the float model that it was made from"
            )
    return None


def _unchanged(reason: str, declined: Iterable[Declined], start: float) -> StepReport:
    return StepReport(
        step=_STEP,
        changed=False,
        summary=reason,
        declined=tuple(declined),
        seconds=time.perf_counter() - start,
    )


def _weight_port(node: ir.Node) -> int | None:
    rule = spec_of(node).quant
    return rule.weight if rule is not None else None


def _stay_float(placement: Placement) -> int:
    return len({d.where for d in placement.declined})


def _emit(
    model: ir.Model,
    placement: Placement,
    params: dict[ir.Value, QParams],
    layers: Sequence[ir.Node],
    target: Target,
) -> list[LayerRow]:
    emitter = Emitter(model, placement)
    weights = {node: const_array(node.inputs[_weight_port(node) or 0]) for node in layers}
    for value, value_params in params.items():
        emitter.activation(value, value_params)
    rows = []
    for node, weight in weights.items():
        assert weight is not None
        integers, weight_params = emitter.layer(node, params, target)
        rows.append(
            LayerRow(
                node.name or "",
                node.op_type,
                {
                    "weights": weight.size,
                    "channels": weight_params.scale.size,
                    "weight_sqnr_db": _sqnr_db(weight, dequantize(integers, weight_params)),
                },
            )
        )
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
