"""Dynamic quantization: 8-bit weights ahead of time, scales of activations in each run.

choose (a kernel per layer, by measurement) -> write -> look-up tables -> verify.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxlite.analysis.shapes import concrete_shapes, generated_feed
from onnxlite.errors import ExecutionError
from onnxlite.fidelity import Reference
from onnxlite.graph import STANDARD_DOMAINS, const_tensor, iter_nodes, node_name
from onnxlite.model import clone, size_bytes
from onnxlite.ops import ShapeOf, spec_of
from onnxlite.quantize.accuracy.smoothquant import apply_smoothquant
from onnxlite.quantize.core.prepare import already_quantized, prepare
from onnxlite.quantize.core.selection import by_name
from onnxlite.quantize.core.targets import Target
from onnxlite.quantize.core.weights import weight_sqnr_db
from onnxlite.quantize.dynamic.embeddings import embeddings_of, write_embedding
from onnxlite.quantize.dynamic.kernel_times import KernelTimes
from onnxlite.quantize.dynamic.kernels import LSTM, Kernel, LayerWriter, dynamic_target, kernels_of
from onnxlite.quantize.dynamic.options import KernelChoice, QuantizeDynamic
from onnxlite.records import (
    Cell,
    LayerRow,
    Progress,
    Reason,
    Skipped,
    StepReport,
    unchanged,
)
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs, trim
from onnxlite.step import StepContext

logger = logging.getLogger(__name__)

_STEP = "quantize-dynamic"
_WHAT = "quantize"

#: A kernel is taken if it is faster than float by more than chance.
_FASTER = 0.97
#: Another than the first kernel is taken if it is faster than that by more than chance.
_BETTER = 0.95


def quantize_dynamic_ir(
    model: ir.Model,
    samples: SamplesLike | None,
    options: QuantizeDynamic,
    context: StepContext,
) -> tuple[ir.Model, StepReport]:
    """Quantize a private copy of a model; see `onnxlite.quantize_dynamic`."""
    start = time.perf_counter()
    row = dynamic_target(options.target)
    source = clone(model)
    feed = first_feed(source, samples)
    if reason := already_quantized(model):
        return source, unchanged(_STEP, reason, [], start)
    ready, skipped = prepare(model)
    if isinstance(ready, Skipped):
        return source, unchanged(_STEP, ready.message, skipped, start)
    smoothed: list[LayerRow] = []
    if samples is not None:
        feeds = Samples(samples, input_specs(source), limit=options.limit)
        smoothed = apply_smoothquant(
            ready, feeds, options, integers_before=False, progress=context.progress
        )
    plan = _chosen(ready, feed, row, options, skipped, context.progress)
    tables = (
        embeddings_of(ready, include=options.include, exclude=options.exclude)
        if options.embeddings
        else []
    )
    if not plan and not tables:
        summary = "no layer is faster on integers" if skipped else "no layer can be quantized"
        return source, unchanged(_STEP, summary, skipped, start)
    rows = _written(ready, plan, tables, row)
    verified = _verified(source, ready, feed)
    used = Counter(str(r.values["kernel"]) for r in rows)
    return ready, StepReport(
        step=_STEP,
        changed=True,
        summary=(
            f"{len(plan)} layers on integers ({_listed(used)}), {len(skipped)} stay float; "
            f"weights {size_bytes(source):,} -> {size_bytes(ready):,} bytes; "
            f"{verified}"
        ),
        changes={
            "layers-quantized": len(plan),
            "tables-quantized": len(tables),
            "values-smoothed": len(smoothed),
        },
        skipped=tuple(skipped),
        layers=(*rows, *smoothed),
        seconds=time.perf_counter() - start,
    )


def _verified(source: ir.Model, model: ir.Model, feed: Feed | None) -> str:
    """Compare the quantized model with the float one on a feed, if there is one.

    Raises:
        VerificationError: an output is not finite where the float model's is.
        ExecutionError: ONNX Runtime does not run one of the models.
    """
    if feed is None:
        return "not run, for want of an input"
    errors = Reference(source, [feed]).errors(model)
    errors.check_finite("the quantized model", "exclude the layers before it and report this")
    noise = "exact" if errors.worst_db == math.inf else f"{errors.worst_db:.1f} dB"
    return f"{noise} on the first sample"


def first_feed(model: ir.Model, samples: SamplesLike | None) -> Feed | None:
    """One sample: the first of those given, else a generated one; None if none is accepted."""
    specs = input_specs(model)
    if samples is not None:
        feed = next(iter(Samples(samples, specs, batch_size=1)))
        return trim(feed, specs, 1) or feed
    try:
        return generated_feed(model)
    except ExecutionError as error:
        logger.info("no input could be made up: %s", error)
        return None


@dataclass(frozen=True)
class _Choice:
    """A layer's kernel, and its time over that in float, if that was measured."""

    kernel: Kernel
    ratio: float | None


@dataclass(frozen=True)
class _Unmeasured:
    """A layer that has kernels, but no times of them, and why."""

    reason: str


def _chosen(
    model: ir.Model,
    feed: Feed | None,
    target: Target,
    options: QuantizeDynamic,
    skipped: list[Skipped],
    progress: Progress,
) -> dict[ir.Node, _Choice]:
    """The kernel of every layer that leaves float; the others go to `skipped`."""
    plan: dict[ir.Node, _Choice] = {}
    layers = [node for node in iter_nodes(model) if _is_layer(node)]
    shape_of = concrete_shapes(model, None if feed is None else [feed]) if layers else None
    times = KernelTimes()
    unmeasured: list[tuple[ir.Node, str]] = []
    for number, node in enumerate(layers, 1):
        reason = by_name(node, options.include, options.exclude)
        choice: _Choice | _Unmeasured | Reason
        assert shape_of is not None
        choice = reason or _choice(model, node, shape_of, times, target, options.kernel)
        if isinstance(choice, _Unmeasured):
            unmeasured.append((node, choice.reason))
        elif isinstance(choice, Reason):
            skipped.append(Skipped(_WHAT, node_name(node), choice.code, choice.message))
        else:
            plan[node] = choice
        progress("choose kernels", number, len(layers))
    times.keep()
    # Branches that no sample reached have layers of the same form as often as not.
    for node, why in unmeasured:
        twin = next((other for other in plan if _form(other) == _form(node)), None)
        if twin is None:
            skipped.append(Skipped(_WHAT, node_name(node), "not-measured", why))
        else:
            plan[node] = plan[twin]
    return plan


def _form(node: ir.Node) -> tuple[object, ...]:
    """What two layers share that differ in the sizes of their data only."""
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    tensors = [const_tensor(value) for value in node.inputs]
    return node.op_type, attributes, [t and tuple(t.shape.numpy()) for t in tensors]


def _is_layer(node: ir.Node) -> bool:
    """Whether a node multiplies by weights; those without a kernel are reported as well."""
    spec = spec_of(node)
    return node.domain in STANDARD_DOMAINS and (
        bool(kernels_of(node))
        or (spec.macs is not None and any(_is_constant(node, port) for port in spec.weights))
    )


def _is_constant(node: ir.Node, port: int) -> bool:
    return port < len(node.inputs) and const_tensor(node.inputs[port]) is not None


def _choice(
    model: ir.Model,
    node: ir.Node,
    shape_of: ShapeOf,
    times: KernelTimes,
    target: Target,
    wanted: KernelChoice,
) -> _Choice | _Unmeasured | Reason:
    """The kernel of one layer, or why it stays float."""
    kernels = kernels_of(node)
    if not kernels:
        message = f"{node.op_type} has no kernel in ONNX Runtime that finds scales at run time"
        return Reason("no-kernel", message)
    refusals = {kernel.name: kernel.refuses(node, target) for kernel in kernels}
    able = [kernel for kernel in kernels if refusals[kernel.name] is None]
    if not able:
        return Reason("unsupported", next(filter(None, refusals.values())))
    if wanted != "auto":
        forced = [kernel for kernel in able if kernel.name == wanted or kernel is LSTM]
        if forced:
            return _Choice(forced[0], None)
        return Reason("unsupported", refusals[wanted] or "no such kernel")
    ratios = times.ratios(model, node, shape_of, able, target)
    if isinstance(ratios, str):
        return _Unmeasured(ratios)
    best = able[0]
    for kernel in able[1:]:
        if ratios[kernel.name] < _BETTER * ratios[best.name]:
            best = kernel
    if ratios[best.name] > _FASTER:
        found = _listed({name: f"{ratio:.2f}" for name, ratio in ratios.items()})
        message = f"integers are not faster here: time over float is {found}"
        return Reason("faster-in-float", message)
    return _Choice(best, round(ratios[best.name], 3))


def _written(
    model: ir.Model, plan: dict[ir.Node, _Choice], tables: Sequence[ir.Node], target: Target
) -> list[LayerRow]:
    writer = LayerWriter(model)
    rows = []
    for node in [node for node in iter_nodes(model) if node in plan or node in tables]:
        name, op_type = node.name or "", node.op_type
        if (choice := plan.get(node)) is None:
            rows.append(write_embedding(writer.builder, node))
            continue
        pairs = choice.kernel.write(writer, node, target)
        values: dict[str, Cell] = {
            "kernel": choice.kernel.name,
            "time_over_float": choice.ratio,
            "weights": sum(weight.size for weight, _ in pairs),
            "weight_sqnr_db": weight_sqnr_db(pairs),
        }
        rows.append(LayerRow(name, op_type, values))
    return rows


def _listed(entries: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in entries.items())
