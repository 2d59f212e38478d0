"""The step: select -> code every tensor -> write its packed form -> check in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import onnx_ir as ir

from onnxlite.errors import OptionError
from onnxlite.graph import node_name, value_names
from onnxlite.model import clone, size_bytes, to_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.packing import weight_type
from onnxlite.quantize.weight_only.bit_allocation import budgeted
from onnxlite.quantize.weight_only.decode_graph import OPSET, Decoder, Packed, load_nbytes
from onnxlite.quantize.weight_only.fit import decoded_tensor, fit_weights
from onnxlite.quantize.weight_only.fp16_initializers import store_in_float16
from onnxlite.quantize.weight_only.kernels import (
    EXACT,
    INT8,
    KernelWriter,
    PackedRows,
    refusal,
    rows_of,
)
from onnxlite.quantize.weight_only.options import WeightOptions
from onnxlite.quantize.weight_only.plan import Chosen, nearest
from onnxlite.quantize.weight_only.selection import STEP, Weight, select
from onnxlite.quantize.weight_only.streaming import Coded, weight_noise
from onnxlite.quantize.weight_only.verify import (
    WHOLE_BELOW_BYTES,
    check_decoders,
    check_kernels,
    check_model,
    set_level,
)
from onnxlite.records import LayerRow, Progress, Skipped, StepReport, no_progress, unchanged
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs

#: Feeds of the samples on which the result is compared with the original.
_CHECKED_FEEDS = 4
#: Up to so many levels, 6 bits, the rounding of float16 is far below that of weights.
_HALVES_BELOW = 64
#: Memory of decoding from which on the report says so, and the whole model is not run here.
_MUCH_MEMORY = 1 << 31
#: What activations rounded to int8 may cost, and from where on they may cost anything.
_LEVEL_LOSS_DB, _LEVEL_GOOD_DB = 0.5, 30.0


def quantize_weights_ir(
    model: ir.Model,
    options: WeightOptions | None = None,
    samples: SamplesLike | None = None,
    *,
    progress: Progress = no_progress,
) -> tuple[ir.Model, StepReport]:
    """Give the weights of a private copy of a model few bits; see `onnxlite.quantize_weights`."""
    start = time.perf_counter()
    options = options or WeightOptions()
    options.check()
    source = clone(model)
    feeds = None
    if samples is not None:
        feeds = Samples(samples, input_specs(source), limit=options.limit)
    skipped = list(normalize(model))
    upgraded = upgrade_opset(model, OPSET)
    if isinstance(upgraded, Skipped):
        return source, unchanged(STEP, upgraded.message, [*skipped, upgraded], start)
    if upgraded is not model:
        model = upgraded
        normalize(model)  # the converter writes Constant nodes
    if feeds is None and options.method == "gptq":
        raise OptionError("method='gptq' fits weights to samples: give some, or use 'rtn'")
    if options.method == "auto" and feeds is None:
        small = size_bytes(source) < WHOLE_BELOW_BYTES
        options = replace(options, method="hqq" if small else "rtn")
    weights, refused = select(model, options)
    skipped += refused
    if not weights:
        return source, unchanged(STEP, "no float weight is left to quantize", skipped, start)
    checked = [] if feeds is None else list(islice(feeds, _CHECKED_FEEDS))
    if options.size is not None:
        weights = budgeted(
            source, model, weights, options, checked, partial(_file_bytes, model, options)
        )
    chosen: list[Chosen] = []
    for index, weight in enumerate(weights):
        progress(STEP, index, len(weights))
        found = nearest(weight, options)
        if isinstance(found, str):
            skipped.append(Skipped(STEP, node_name(weight.node), "no-smaller", found))
        else:
            chosen.append(found)
    progress(STEP, len(weights), len(weights))
    if not chosen:
        return source, unchanged(STEP, "no weight would get smaller", skipped, start)
    if feeds is not None and options.method in ("auto", "gptq"):
        chosen, refused = _fitted(model, chosen, feeds, options, progress)
        skipped += refused
    packed = [(one.weight, one.packed(options)) for one in chosen]
    names = [one.weight.value.name or "" for one in chosen]
    every = size_bytes(source) < WHOLE_BELOW_BYTES
    check_decoders([form for _, form in packed], names, every=every)
    rows = [one.row() for one in chosen]
    floats = {value for graph in model.graphs() for value in graph.initializers.values()}
    skipped += _write(model, packed, options)
    heavy = _heavy([form for weight, form in packed if _decoded(weight, options)])
    halved = _halve(model, floats, options)
    sqnr, unchecked = (
        (None, heavy) if heavy else check_model(source, model, checked, options.threads)
    )
    if options.mode == "compute":
        sqnr = _faster(source, model, checked, options, sqnr)
    return model, StepReport(
        step=STEP,
        changed=True,
        summary=_summary(source, model, rows, sqnr),
        changes={"weights-packed": len(packed), "others-halved": halved},
        skipped=(*skipped, *unchecked),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _fitted(
    model: ir.Model,
    chosen: Sequence[Chosen],
    feeds: Samples,
    options: WeightOptions,
    progress: Progress,
) -> tuple[list[Chosen], list[Skipped]]:
    """The same weights, fitted to the samples where the fit holds; biases are new as well."""
    names = [one.weight.value.name or "" for one in chosen]
    fitted, skipped = fit_weights(
        model,
        clone(model),
        feeds,
        {name: (one.kind, one.blocks) for name, one in zip(names, chosen, strict=True)},
        {
            name: decoded_tensor(
                one.weight.tensor, one.blocks, one.coded.coding, one.codes(options.threads)
            )
            for name, one in zip(names, chosen, strict=True)
        },
        threads=options.threads,
        progress=progress,
    )
    result = []
    for name, one in zip(names, chosen, strict=True):
        new = fitted.get(name)
        if new is not None:
            noise = weight_noise(one.weight.tensor, new.tensor)
            coded = Coded(new.coding, one.coded.signal, noise)
            errors = (new.error_nearest, new.error)
            one = replace(one, coded=coded, tensor=new.tensor, method="gptq", errors=errors)
        result.append(one)
    return result, skipped


def _write(
    model: ir.Model, packed: Sequence[tuple[Weight, Packed]], options: WeightOptions
) -> list[Skipped]:
    """Put the packed forms in the place of the float weights; says what no kernel takes."""
    names = value_names(model)
    skipped: list[Skipped] = []
    decoders: dict[ir.Graph, Decoder] = {}
    kernels: list[tuple[Packed, PackedRows]] = []
    for index, (weight, form) in enumerate(packed):
        if options.mode == "compute":
            reason = refusal(weight)
            if reason is None:
                rows = rows_of(weight, form)
                kernels.append((form, rows))
                KernelWriter(model, names, EXACT).write(weight, rows, f"w{index}")
                continue
            message = f"decoded at load: {reason}"
            skipped.append(Skipped("kernel", node_name(weight.node), "no-kernel", message))
        value, graph = weight.value, weight.graph
        decoder = decoders.setdefault(graph, Decoder(graph, names))
        decoded = decoder.write(form, f"w{index}")
        value.replace_all_uses_with(decoded)
        name = value.name or ""
        del graph.initializers[name]
        decoded.name = name
    check_kernels([rows for _, rows in kernels], [form for form, _ in kernels])
    return skipped


def _decoded(weight: Weight, options: WeightOptions) -> bool:
    """Whether a weight is decoded at load, and not read by a kernel."""
    return options.mode == "storage" or refusal(weight) is not None


def _heavy(decoded: Sequence[Packed]) -> list[Skipped]:
    """Why a model is not loaded here whose decoding takes much memory."""
    nbytes = sum(map(load_nbytes, decoded))
    if nbytes < _MUCH_MEMORY:
        return []
    reason = (
        f"ONNX Runtime holds about {nbytes / 1e9:.1f} GB while it decodes these weights, so that "
        "they were checked one by one: with mode='compute' kernels read them as they are, and "
        "8 bits take half of that"
    )
    return [Skipped("load", "", "memory", reason)]


def _halve(model: ir.Model, candidates: set[ir.Value], options: WeightOptions) -> int:
    """Put what is left of the model's own constants into float16, beside few bits."""
    if options.size is None and weight_type(options.bits).levels > _HALVES_BELOW:
        return 0
    names = value_names(model)
    kept = {value for graph in model.graphs() for value in graph.initializers.values()}
    return sum(store_in_float16(graph, names, kept - candidates) for graph in model.graphs())


def _file_bytes(model: ir.Model, options: WeightOptions, weights: Sequence[Weight]) -> int:
    """The size of a normalised model with weights of the widths given, rounded to nearest."""
    trial = clone(model)
    bits = {weight.value.name: weight.bits for weight in weights}
    floats = {value for graph in trial.graphs() for value in graph.initializers.values()}
    packed = []
    for weight in select(trial, options)[0]:
        if weight.value.name in bits:
            found = nearest(replace(weight, bits=bits[weight.value.name]), options)
            if isinstance(found, Chosen):
                packed.append((found.weight, found.packed(options)))
    _write(trial, packed, options)
    _halve(trial, floats, options)
    return len(to_bytes(trial))


def _faster(
    source: ir.Model,
    model: ir.Model,
    feeds: Sequence[Feed],
    options: WeightOptions,
    exact: float | None,
) -> float | None:
    """Let kernels round activations to int8 if next to nothing is lost; returns the new SQNR.

    Where the model cannot be run, up to 4 bits: there the error of weights is tens of dB above
    that of activations rounded block by block.
    """
    set_level(model, INT8)
    if exact is None:
        if weight_type(options.bits).levels > 16:
            set_level(model, EXACT)
        return exact
    rounded, _ = check_model(source, model, feeds, options.threads)
    if rounded is not None and rounded >= min(exact - _LEVEL_LOSS_DB, _LEVEL_GOOD_DB):
        return rounded
    set_level(model, EXACT)
    return exact


def _summary(
    source: ir.Model, model: ir.Model, rows: Sequence[LayerRow], sqnr: float | None
) -> str:
    bits = sorted({str(row.values["bits"]) for row in rows})
    quality = "" if sqnr is None else f"; {sqnr:.1f} dB at the worst output on the first samples"
    return (
        f"{len(rows)} weights packed to {', '.join(bits)} bits; "
        f"{size_bytes(source):,} -> {size_bytes(model):,} bytes of tensors{quality}"
    )
