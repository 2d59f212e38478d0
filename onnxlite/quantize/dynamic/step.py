"""Dynamic quantization: 8-bit weights and activation scales computed at run time.

prepare -> smooth -> choose -> write -> store -> verify

Each phase reads and writes one `_Quantization`. It returns a reason if nothing can be quantized.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir
from msgspec.structs import replace

from onnxlite.analysis.quantized_model import QUANTIZE_ONCE, already_quantized, computed_weights
from onnxlite.analysis.shapes import generated_feed
from onnxlite.errors import ExecutionError
from onnxlite.fidelity import Reference
from onnxlite.graph import iter_nodes
from onnxlite.inputs import Feed, input_specs, trim
from onnxlite.model import size_bytes
from onnxlite.quantize.accuracy.smoothquant import apply_smoothquant
from onnxlite.quantize.core.options import QuantizedTable, SmoothedValue
from onnxlite.quantize.core.prepare import prepare
from onnxlite.quantize.core.selection import by_name, layer_patterns
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import weight_sqnr_db
from onnxlite.quantize.dynamic.embeddings import embeddings_of, is_embedding, write_embedding
from onnxlite.quantize.dynamic.kernel_choice import (
    FASTER_IN_FLOAT,
    QUANTIZE,
    KernelChoice,
    KernelChosen,
    listed,
)
from onnxlite.quantize.dynamic.kernels import LayerWriter, dynamic_target
from onnxlite.quantize.dynamic.options import (
    DynamicLayer,
    QuantizeDynamic,
    QuantizeDynamicChanges,
    QuantizeDynamicReport,
)
from onnxlite.quantize.weight_only.options import PackedWeight
from onnxlite.quantize.weight_only.storage import store_in_8_bits
from onnxlite.records import Skipped, main_reasons
from onnxlite.samples import Samples, SamplesLike
from onnxlite.step import StepContext, StepState

logger = logging.getLogger(__name__)


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
        stored: rows of the weights of float layers that are stored in 8 bits.
        fidelity: SQNR of the result, for the summary.
    """

    target: Target
    feed: Feed | None
    kernels: dict[ir.Node, KernelChosen] = field(default_factory=dict)
    tables: list[ir.Node] = field(default_factory=list)
    layers: list[DynamicLayer] = field(default_factory=list)
    table_rows: list[QuantizedTable] = field(default_factory=list)
    smoothed: list[SmoothedValue] = field(default_factory=list)
    stored: tuple[PackedWeight, ...] = ()
    fidelity: str = "not run, because there is no input"


def quantize_dynamic_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeDynamic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeDynamicReport]:
    """Quantize a copy of a model; see `onnxlite.quantize_dynamic`."""
    work = _begin(model, samples, options, context)
    return work.run((_prepare, _smooth, _choose, _write, _store, _verify), _report)


def quantize_rest_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeDynamic,
    context: StepContext,
) -> tuple[ir.Model, QuantizeDynamicReport]:
    """Quantize the layers that static quantization left in float, in a copy of its result.

    Args:
        model: may have integer operators.
        samples: for the shapes and a check against `model`, or None.
        options: which layers; values are not smoothed.
        context: threads and progress.
    """
    work = _begin(model, samples, options, context)
    return work.run((_choose, _write, _store, _verify), _report)


def _begin(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeDynamic,
    context: StepContext,
) -> _Quantization:
    target, feed = dynamic_target(options.target), _first_feed(model, samples)
    return _Quantization.begin(model, samples, options, context, target=target, feed=feed)


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
    choice = KernelChoice(work.model, work.feed, options, work.target)
    choice.run(work.context.progress)
    work.kernels, work.skipped = choice.kernels, work.skipped + choice.skipped
    if options.embeddings:
        work.tables = embeddings_of(work.model, include=options.include, exclude=options.exclude)
    if work.kernels or work.tables:
        return None
    if reason := computed_weights(work.source, QUANTIZE_ONCE):
        return reason
    layers = [row for row in work.skipped if row.what == QUANTIZE]
    if not layers:
        return "it has no layer that dynamic quantization knows"
    if all(row.code == FASTER_IN_FLOAT for row in layers):
        advice = "quantize_weights(bits=8) makes it smaller at the speed of float"
        return f"no layer is faster on integers: {main_reasons(layers)}; {advice}"
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
    writer: LayerWriter, node: ir.Node, choice: KernelChosen, target: Target
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


def _store(work: _Quantization) -> None:
    """Store the weights of layers that stay float in 8 bits."""
    options = work.options
    if not options.storage:
        return

    def kept(node: ir.Node) -> bool:
        named = by_name(node, options.include, options.exclude)
        return named is not None or (not options.embeddings and is_embedding(node))

    work.model, work.stored = store_in_8_bits(work.model, kept, work.context)


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
    in_float = sum(skipped.what == QUANTIZE for skipped in work.skipped)
    used = Counter(row.kernel for row in work.layers)
    if work.table_rows:
        used["rows"] = len(work.table_rows)
    stored = f"; {len(work.stored)} weights stored in 8 bits" if work.stored else ""
    return QuantizeDynamicReport(
        changed=True,
        summary=(
            f"{count} layers on integers ({listed(used)}), {in_float} stay float{stored}; "
            f"weights {size_bytes(work.source):,} -> {size_bytes(work.model):,} bytes; "
            f"{work.fidelity}"
        ),
        changes=QuantizeDynamicChanges(
            layers_quantized=count,
            tables_quantized=len(work.tables),
            values_smoothed=len(work.smoothed),
            weights_stored=len(work.stored),
        ),
        skipped=tuple(work.skipped),
        layers=tuple(work.layers),
        tables=tuple(work.table_rows),
        smoothed_values=tuple(work.smoothed),
        stored_weights=work.stored,
        seconds=time.perf_counter() - work.start,
    )
