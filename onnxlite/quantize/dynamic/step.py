"""Dynamic quantization: 8-bit weights and activation scales computed at run time.

prepare -> smooth -> choose -> write -> verify

Each phase reads and writes one `_Quantization`. It returns a reason if nothing can be quantized.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from msgspec.structs import replace

from onnxlite.analysis.quantized_model import QUANTIZE_ONCE, already_quantized, computed_weights
from onnxlite.analysis.shapes import concrete_shapes, generated_feed
from onnxlite.errors import ExecutionError
from onnxlite.fidelity import Reference
from onnxlite.graph import STANDARD_DOMAINS, const_tensor, iter_nodes, node_name
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import size_bytes
from onnxlite.ops import ShapeOf, spec_of
from onnxlite.quantize.accuracy.smoothquant import apply_smoothquant
from onnxlite.quantize.core.options import QuantizedTable, SmoothedValue
from onnxlite.quantize.core.prepare import prepare
from onnxlite.quantize.core.selection import by_name, layer_patterns
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import weight_sqnr_db
from onnxlite.quantize.dynamic.embeddings import embeddings_of, write_embedding
from onnxlite.quantize.dynamic.kernel_times import KernelTimes
from onnxlite.quantize.dynamic.kernels import LSTM, Kernel, LayerWriter, dynamic_target, kernels_of
from onnxlite.quantize.dynamic.options import (
    DynamicLayer,
    QuantizeDynamic,
    QuantizeDynamicChanges,
    QuantizeDynamicReport,
)
from onnxlite.records import Reason, Skipped, main_reasons
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, StepState

logger = logging.getLogger(__name__)

_WHAT = "quantize"
_FASTER_IN_FLOAT = "faster-in-float"

#: Largest time over float of a kernel: a smaller gain is within the measurement error.
_MAX_TIME_RATIO = 0.97
#: Largest time of a kernel over that of the preferred one to replace it.
_MAX_KERNEL_RATIO = 0.95


@dataclass(frozen=True)
class _Choice:
    """Kernel of a layer, and its time over float if it was measured."""

    kernel: Kernel
    ratio: float | None


@dataclass(kw_only=True)
class _Quantization(StepState[QuantizeDynamic]):
    """State of one quantization: the model is float up to `_write`.

    Attributes:
        target: the target of the kernels.
        feed: one sample, for shapes and verification; None if the model accepts none.
        kernels: the kernel of each layer to quantize.
        tables: the embeddings to quantize.
        layers: rows of the quantized layers.
        table_rows: rows of the quantized embeddings.
        smoothed: rows of the smoothed values.
        fidelity: SQNR of the result, for the summary.
    """

    target: Target
    feed: Feed | None
    kernels: dict[ir.Node, _Choice] = field(default_factory=dict)
    tables: list[ir.Node] = field(default_factory=list)
    layers: list[DynamicLayer] = field(default_factory=list)
    table_rows: list[QuantizedTable] = field(default_factory=list)
    smoothed: list[SmoothedValue] = field(default_factory=list)
    fidelity: str = "not run, because there is no input"


def quantize_dynamic_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeDynamic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeDynamicReport]:
    """Quantize a copy of a model; see `onnxlite.quantize_dynamic`."""
    target, feed = dynamic_target(options.target), _first_feed(model, samples)
    work = _Quantization.begin(model, samples, options, context, target=target, feed=feed)
    return work.run((_prepare, _smooth, _choose, _write, _verify), _report)


def _first_feed(model: ir.Model, samples: SamplesLike | None) -> Feed | None:
    """Return the first sample, or a generated one; None if generation fails."""
    if samples is not None:
        stream = Samples(samples, input_specs(model), batch_size=1)
        feed = next(iter(stream))
        return trim(feed, stream.inputs, 1) or feed
    try:
        return generated_feed(model)
    except ExecutionError as error:
        logger.info("no input could be generated: %s", error)
        return None


def _prepare(work: _Quantization) -> str | None:
    """Bring the model into the form that integer kernels need."""
    if reason := already_quantized(work.model, QUANTIZE_ONCE):
        return reason
    ready, skipped = prepare(work.model)
    work.skipped += skipped
    if isinstance(ready, Skipped):
        return ready.message
    work.model = ready
    work.options = replace(
        work.options,
        include=layer_patterns(ready, work.options.include),
        exclude=layer_patterns(ready, work.options.exclude),
    )
    return None


def _smooth(work: _Quantization) -> None:
    """Move outliers of activations into weights with SmoothQuant, if there are samples."""
    if work.samples is not None:
        work.smoothed, skipped = apply_smoothquant(
            work.model,
            work.samples,
            work.options,
            integers_before=False,
            progress=work.context.progress,
        )
        work.skipped += skipped


def _choose(work: _Quantization) -> str | None:
    """Choose a kernel for every layer, and the embeddings to quantize."""
    options = work.options
    _choose_kernels(work)
    if options.embeddings:
        work.tables = embeddings_of(work.model, include=options.include, exclude=options.exclude)
    if work.kernels or work.tables:
        return None
    if reason := computed_weights(work.source, QUANTIZE_ONCE):
        return reason
    layers = [row for row in work.skipped if row.what == _WHAT]
    if not layers:
        return "it has no layer that dynamic quantization knows"
    if all(row.code == _FASTER_IN_FLOAT for row in layers):
        return f"no layer is faster on integers: {main_reasons(layers)}"
    return f"no layer can be quantized: {main_reasons(layers)}"


def _write(work: _Quantization) -> None:
    """Replace layers by kernels and embeddings by 8-bit tables, in topological order."""
    writer = LayerWriter(work.model)
    tables = set(work.tables)
    for node in [node for node in iter_nodes(work.model) if node in work.kernels or node in tables]:
        if (choice := work.kernels.get(node)) is None:
            work.table_rows.append(write_embedding(writer.builder, node, writer.copies))
        else:
            work.layers.append(_write_layer(writer, node, choice, work.target))
    writer.copies.decode(writer.builder)


def _write_layer(
    writer: LayerWriter, node: ir.Node, choice: _Choice, target: Target
) -> DynamicLayer:
    name, op_type = node.name or "", node.op_type
    pairs = choice.kernel.write(writer, node, target)
    return DynamicLayer(
        name=name,
        op_type=op_type,
        kernel=choice.kernel.name,
        time_over_float=choice.ratio,
        weights=sum(weight.size for weight, _ in pairs),
        weight_sqnr_db=weight_sqnr_db(pairs),
    )


def _verify(work: _Quantization) -> None:
    """Compare the quantized model with the float model on the feed, if there is one.

    Raises:
        VerificationError: an output is not finite although the float model's is.
        ExecutionError: ONNX Runtime cannot run one of the models.
    """
    if work.feed is None:
        return
    errors = Reference(work.source, [work.feed]).errors(work.model)
    errors.check_finite("the quantized model", "exclude the layers before it and report this")
    noise = "exact" if errors.worst_db == math.inf else f"{errors.worst_db:.1f} dB"
    work.fidelity = f"{noise} on the first sample"


def _report(work: _Quantization) -> QuantizeDynamicReport:
    count = len(work.kernels)
    in_float = sum(skipped.what == _WHAT for skipped in work.skipped)
    used = Counter(row.kernel for row in work.layers)
    if work.table_rows:
        used["rows"] = len(work.table_rows)
    return QuantizeDynamicReport(
        changed=True,
        summary=(
            f"{count} layers on integers ({_listed(used)}), {in_float} stay float; "
            f"weights {size_bytes(work.source):,} -> {size_bytes(work.model):,} bytes; "
            f"{work.fidelity}"
        ),
        changes=QuantizeDynamicChanges(
            layers_quantized=count,
            tables_quantized=len(work.tables),
            values_smoothed=len(work.smoothed),
        ),
        skipped=tuple(work.skipped),
        layers=tuple(work.layers),
        tables=tuple(work.table_rows),
        smoothed_values=tuple(work.smoothed),
        seconds=time.perf_counter() - work.start,
    )


@dataclass(frozen=True)
class _Unmeasured:
    """Layer with kernels that could not be timed, and the reason."""

    reason: str


def _choose_kernels(work: _Quantization) -> None:
    """Choose the kernel of every layer; layers that stay float go to `skipped`."""
    layers = [node for node in iter_nodes(work.model) if _is_layer(node)]
    if not layers:
        return
    shape_of = concrete_shapes(work.model, None if work.feed is None else [work.feed])
    times = KernelTimes()
    unmeasured: list[tuple[ir.Node, str]] = []
    for number, node in enumerate(layers, 1):
        reason = by_name(node, work.options.include, work.options.exclude)
        choice = reason or _choose_kernel(work, node, shape_of, times)
        if isinstance(choice, _Unmeasured):
            unmeasured.append((node, choice.reason))
        elif isinstance(choice, Reason):
            work.skipped.append(Skipped(_WHAT, node_name(node), choice.code, choice.message))
        else:
            work.kernels[node] = choice
        work.context.progress("choose kernels", number, len(layers))
    times.keep()
    _copy_choices(work, unmeasured)
    _share_kernels(work)


def _copy_choices(work: _Quantization, unmeasured: Sequence[tuple[ir.Node, str]]) -> None:
    """Copy the kernels of equal layers to layers that could not be timed.

    Layers in branches that no sample takes often equal layers in the branches taken.
    """
    for node, message in unmeasured:
        equal = next((other for other in work.kernels if _form(other) == _form(node)), None)
        if equal is None:
            work.skipped.append(Skipped(_WHAT, node_name(node), "not-measured", message))
        else:
            work.kernels[node] = work.kernels[equal]


def _share_kernels(work: _Quantization) -> None:
    """Choose the same kernel for layers that share a weight, so that it is stored once."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in work.kernels:
        for value in node.inputs:
            if value is not None and const_tensor(value) is not None:
                readers.setdefault(value, []).append(node)
    for nodes in readers.values():
        kernels = Counter(work.kernels[node].kernel.name for node in nodes)
        if len(kernels) < 2:
            continue
        for name, _ in kernels.most_common():
            found = [next((k for k in kernels_of(n) if k.name == name), None) for n in nodes]
            if all(
                k and k.refuses(n, work.target) is None for k, n in zip(found, nodes, strict=True)
            ):
                for node, kernel in zip(nodes, found, strict=True):
                    if kernel is not None and work.kernels[node].kernel is not kernel:
                        work.kernels[node] = _Choice(kernel, None)
                break


def _form(node: ir.Node) -> tuple[object, ...]:
    """Return the operator, attributes and constant shapes of a layer."""
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    tensors = [const_tensor(value) for value in node.inputs]
    return node.op_type, attributes, [t and tuple(t.shape.numpy()) for t in tensors]


def _is_layer(node: ir.Node) -> bool:
    """Return whether a node multiplies by weights, with or without a kernel."""
    spec = spec_of(node)
    return node.domain in STANDARD_DOMAINS and (
        bool(kernels_of(node))
        or (spec.macs is not None and any(_is_constant(node, port) for port in spec.weights))
    )


def _is_constant(node: ir.Node, port: int) -> bool:
    return port < len(node.inputs) and const_tensor(node.inputs[port]) is not None


def _choose_kernel(
    work: _Quantization, node: ir.Node, shape_of: ShapeOf, times: KernelTimes
) -> _Choice | _Unmeasured | Reason:
    """Return the kernel of one layer, or the reason why it stays float."""
    target, wanted = work.target, work.options.kernel
    kernels = kernels_of(node)
    if not kernels:
        message = f"ONNX Runtime has no {node.op_type} kernel with scales computed at run time"
        return Reason("no-kernel", message)
    refusals = {kernel.name: kernel.refuses(node, target) for kernel in kernels}
    able = [kernel for kernel in kernels if refusals[kernel.name] is None]
    if not able:
        return Reason("unsupported", next(filter(None, refusals.values())))
    if wanted != "auto":
        forced = [kernel for kernel in able if kernel.name == wanted or kernel is LSTM]
        if forced:
            return _Choice(forced[0], None)
        return Reason("unsupported", refusals[wanted] or f"it has no kernel {wanted!r}")
    ratios = times.ratios(work.model, node, shape_of, able, target)
    if isinstance(ratios, str):
        return _Unmeasured(ratios)
    return _fastest(able, ratios)


def _fastest(kernels: Sequence[Kernel], ratios: Mapping[str, float]) -> _Choice | Reason:
    """Return the fastest kernel; earlier kernels win within the measurement error."""
    best = kernels[0]
    for kernel in kernels[1:]:
        if ratios[kernel.name] < _MAX_KERNEL_RATIO * ratios[best.name]:
            best = kernel
    if ratios[best.name] > _MAX_TIME_RATIO:
        found = _listed({name: f"{ratio:.2f}" for name, ratio in ratios.items()})
        message = f"integers are not faster here: time over float is {found}"
        return Reason(_FASTER_IN_FLOAT, message)
    return _Choice(best, round(ratios[best.name], 3))


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in entries.items())
