"""The step: select -> code every tensor -> write its packed form -> check in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import describe, value_names
from onnxlite.model import clone, size_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.lowbits.blocks import blocks_of
from onnxlite.quantize.lowbits.checking import WHOLE_BELOW_BYTES, check_decoders, check_model
from onnxlite.quantize.lowbits.coding import nearest_levels
from onnxlite.quantize.lowbits.decoding import NODE_BYTES, OPSET, Decoder, Packed
from onnxlite.quantize.lowbits.options import WeightOptions
from onnxlite.quantize.lowbits.selection import STEP, Weight, select
from onnxlite.quantize.lowbits.tensorwise import code_tensor, encode_tensor
from onnxlite.quantize.lowbits.weight_type import weight_type
from onnxlite.records import Cell, Declined, LayerRow, Progress, StepReport, silent
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs

#: Feeds of the samples on which the result is compared with the original.
_CHECKED_FEEDS = 4


def quantize_weights_ir(
    model: ir.Model,
    options: WeightOptions | None = None,
    samples: SamplesLike | None = None,
    *,
    progress: Progress = silent,
) -> tuple[ir.Model, StepReport]:
    """Give the weights of a private copy of a model few bits; see `onnxlite.quantize_weights`."""
    start = time.perf_counter()
    options = options or WeightOptions()
    options.check()
    source = clone(model)
    feeds: list[Feed] = []
    if samples is not None:
        checked = Samples(samples, input_specs(source), limit=options.limit)
        feeds = list(islice(checked, _CHECKED_FEEDS))
    declined = list(normalize(model))
    upgraded = upgrade_opset(model, OPSET)
    if isinstance(upgraded, Declined):
        return source, _unchanged(upgraded.reason, [*declined, upgraded], start)
    model = upgraded
    if model is not source:
        normalize(model)  # the converter writes Constant nodes
    weights, refused = select(model, options)
    declined += refused
    if not weights:
        return source, _unchanged("no float weight is left to quantize", declined, start)
    rows: list[LayerRow] = []
    packed: list[tuple[Weight, Packed]] = []
    for index, weight in enumerate(weights):
        progress(STEP, index, len(weights))
        coded = _coded(weight, options)
        if isinstance(coded, str):
            declined.append(Declined(STEP, describe(weight.node), coded))
            continue
        form, row = coded
        packed.append((weight, form))
        rows.append(row)
    progress(STEP, len(weights), len(weights))
    if not packed:
        return source, _unchanged("no weight would get smaller", declined, start)
    names = [weight.value.name or "" for weight, _ in packed]
    every = size_bytes(source) < WHOLE_BELOW_BYTES
    check_decoders([form for _, form in packed], names, every=every)
    _write(model, packed)
    sqnr, unchecked = check_model(source, model, feeds, options.threads)
    return model, StepReport(
        step=STEP,
        changed=True,
        summary=_summary(source, model, rows, sqnr),
        changes={"weights-packed": len(packed)},
        declined=(*declined, *unchecked),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


def _coded(weight: Weight, options: WeightOptions) -> tuple[Packed, LayerRow] | str:
    """The packed form of one tensor, or why it stays as it is."""
    kind = weight_type(weight.bits)
    blocks = blocks_of(weight.uses, weight.shape, options.block_for(weight.bits))
    free_zero = blocks.view != blocks.shape

    def find(view: NDArray[Any]) -> Any:
        return nearest_levels(kind, view, blocks.reduced, free_zero=free_zero)

    coded = code_tensor(weight.tensor, blocks, kind, find, options.threads)
    if isinstance(coded, str):
        return coded
    tensor = weight.tensor
    lazy = isinstance(tensor, ir.ExternalTensor | ir.LazyTensor)
    codes = partial(encode_tensor, tensor, blocks, coded.coding, options.threads)
    form = Packed(tensor.dtype, blocks, coded.coding, codes, lazy)
    if form.nbytes + NODE_BYTES >= tensor.nbytes:
        return (
            f"its weight {weight.value.name!r} has {tensor.nbytes} bytes and would have "
            f"{form.nbytes} and about {NODE_BYTES} of nodes"
        )
    values: dict[str, Cell] = {
        "weight": weight.value.name,
        "shape": "x".join(map(str, weight.shape)),
        "bits": kind.name,
        "block": blocks.size,
        "method": "rtn",
        "bytes_before": tensor.nbytes,
        "bytes": form.nbytes,
        "weight_sqnr_db": coded.sqnr_db,
    }
    return form, LayerRow(weight.node.name or "", weight.node.op_type, values)


def _write(model: ir.Model, packed: Sequence[tuple[Weight, Packed]]) -> None:
    """Put the packed forms in the place of the float weights."""
    names = value_names(model)
    decoders: dict[ir.Graph, Decoder] = {}
    for index, (weight, form) in enumerate(packed):
        value, graph = weight.value, weight.graph
        decoder = decoders.setdefault(graph, Decoder(graph, names))
        decoded = decoder.write(form, f"w{index}")
        value.replace_all_uses_with(decoded)
        name = value.name or ""
        del graph.initializers[name]
        decoded.name = name


def _summary(
    source: ir.Model, model: ir.Model, rows: Sequence[LayerRow], sqnr: float | None
) -> str:
    bits = sorted({str(row.values["bits"]) for row in rows})
    quality = "" if sqnr is None else f"; {sqnr:.1f} dB at the worst output"
    return (
        f"{len(rows)} weights packed to {', '.join(bits)} bits; "
        f"{size_bytes(source):,} -> {size_bytes(model):,} bytes of tensors{quality}"
    )


def _unchanged(reason: str, declined: Iterable[Declined], start: float) -> StepReport:
    return StepReport(
        step=STEP,
        changed=False,
        summary=reason,
        declined=tuple(declined),
        seconds=time.perf_counter() - start,
    )
