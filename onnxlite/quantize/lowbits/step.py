"""The step: select -> code every tensor -> write its packed form -> check in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.graph import describe, value_names
from onnxlite.model import clone, size_bytes
from onnxlite.normalize import normalize
from onnxlite.opset import upgrade_opset
from onnxlite.quantize.lowbits.blocks import Blocks, blocks_of
from onnxlite.quantize.lowbits.checking import (
    WHOLE_BELOW_BYTES,
    check_decoders,
    check_kernels,
    check_model,
    set_level,
)
from onnxlite.quantize.lowbits.coding import Levels, nearest_levels
from onnxlite.quantize.lowbits.decoding import NODE_BYTES, OPSET, Decoder, Packed, packed_nbytes
from onnxlite.quantize.lowbits.fitting import decoded_tensor, fit_weights
from onnxlite.quantize.lowbits.kernels import (
    EXACT,
    INT8,
    KernelWriter,
    Rows,
    kernel_block,
    refusal,
    rows_of,
)
from onnxlite.quantize.lowbits.options import WeightOptions
from onnxlite.quantize.lowbits.selection import STEP, Weight, select
from onnxlite.quantize.lowbits.tensorwise import Coded, code_tensor, encode_tensor, weight_noise
from onnxlite.quantize.lowbits.weight_type import WeightType, weight_type
from onnxlite.records import Cell, Declined, LayerRow, Progress, StepReport, silent
from onnxlite.samples import Feed, Samples, SamplesLike, input_specs

#: Feeds of the samples on which the result is compared with the original.
_CHECKED_FEEDS = 4
#: What activations rounded to int8 may cost, and from where on they may cost anything.
_LEVEL_LOSS_DB, _LEVEL_GOOD_DB = 0.5, 30.0


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
    feeds = None
    if samples is not None:
        feeds = Samples(samples, input_specs(source), limit=options.limit)
    declined = list(normalize(model))
    upgraded = upgrade_opset(model, OPSET)
    if isinstance(upgraded, Declined):
        return source, _unchanged(upgraded.reason, [*declined, upgraded], start)
    if upgraded is not model:
        model = upgraded
        normalize(model)  # the converter writes Constant nodes
    if feeds is None and options.method == "gptq":
        raise OptionError("method='gptq' fits weights to samples: give some, or use 'rtn'")
    weights, refused = select(model, options)
    declined += refused
    if not weights:
        return source, _unchanged("no float weight is left to quantize", declined, start)
    chosen: list[_Chosen] = []
    for index, weight in enumerate(weights):
        progress(STEP, index, len(weights))
        found = _nearest(weight, options)
        if isinstance(found, str):
            declined.append(Declined(STEP, describe(weight.node), found))
        else:
            chosen.append(found)
    progress(STEP, len(weights), len(weights))
    if not chosen:
        return source, _unchanged("no weight would get smaller", declined, start)
    if feeds is not None and options.method in ("auto", "gptq"):
        chosen, refused = _fitted(model, chosen, feeds, options, progress)
        declined += refused
    packed = [(one.weight, one.packed(options)) for one in chosen]
    names = [one.weight.value.name or "" for one in chosen]
    every = size_bytes(source) < WHOLE_BELOW_BYTES
    check_decoders([form for _, form in packed], names, every=every)
    rows = [one.row() for one in chosen]
    declined += _write(model, packed, options)
    checked = [] if feeds is None else list(islice(feeds, _CHECKED_FEEDS))
    sqnr, unchecked = check_model(source, model, checked, options.threads)
    if options.mode == "compute":
        sqnr = _faster(source, model, checked, options, sqnr)
    return model, StepReport(
        step=STEP,
        changed=True,
        summary=_summary(source, model, rows, sqnr),
        changes={"weights-packed": len(packed)},
        declined=(*declined, *unchecked),
        layers=tuple(rows),
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Chosen:
    """A weight that gets few bits, with its coding; `tensor` is what is coded."""

    weight: Weight
    kind: WeightType
    blocks: Blocks
    coded: Coded
    tensor: ir.TensorProtocol
    method: str
    errors: tuple[float, float] | None = None

    def codes(self, threads: int | None) -> NDArray[np.uint8]:
        """Shaped like the view."""
        return encode_tensor(self.tensor, self.blocks, self.coded.coding, threads)

    def packed(self, options: WeightOptions) -> Packed:
        """Weights on disk are coded again when they are written."""
        lazy = isinstance(self.tensor, ir.ExternalTensor | ir.LazyTensor)
        codes = partial(self.codes, options.threads)
        dtype = self.weight.tensor.dtype
        return Packed(dtype, self.blocks, self.coded.coding, codes, lazy)

    def row(self) -> LayerRow:
        """For the report."""
        values: dict[str, Cell] = {
            "weight": self.weight.value.name,
            "shape": "x".join(map(str, self.weight.shape)),
            "bits": self.kind.name,
            "block": self.blocks.size,
            "method": self.method,
            "bytes_before": self.weight.tensor.nbytes,
            "bytes": packed_nbytes(self.blocks, self.coded.coding),
            "weight_sqnr_db": self.coded.sqnr_db,
        }
        if self.errors is not None:
            values |= {"error_nearest": self.errors[0], "error": self.errors[1]}
        return LayerRow(self.weight.node.name or "", self.weight.node.op_type, values)


def _nearest(weight: Weight, options: WeightOptions) -> _Chosen | str:
    """A tensor rounded to nearest, or why it stays as it is."""
    kind = weight_type(weight.bits)
    size = options.block_for(weight.bits)
    if options.mode == "compute" and refusal(weight) is None:
        size = kernel_block(weight, options.block_size if options.block_size is not None else 32)
    blocks = blocks_of(weight.uses, weight.shape, size)
    free_zero = blocks.view != blocks.shape

    def find(view: NDArray[Any]) -> Levels:
        return nearest_levels(kind, view, blocks.reduced, free_zero=free_zero)

    tensor = weight.tensor
    coded = code_tensor(tensor, blocks, kind, find, options.threads)
    if isinstance(coded, str):
        return coded
    nbytes = packed_nbytes(blocks, coded.coding)
    if nbytes + NODE_BYTES >= tensor.nbytes:
        return (
            f"its weight {weight.value.name!r} has {tensor.nbytes} bytes and would have "
            f"{nbytes} and about {NODE_BYTES} of nodes"
        )
    return _Chosen(weight, kind, blocks, coded, tensor, "rtn")


def _fitted(
    model: ir.Model,
    chosen: Sequence[_Chosen],
    feeds: Samples,
    options: WeightOptions,
    progress: Progress,
) -> tuple[list[_Chosen], list[Declined]]:
    """The same weights, fitted to the samples where the fit holds; biases are new as well."""
    names = [one.weight.value.name or "" for one in chosen]
    fitted, declined = fit_weights(
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
    return result, declined


def _write(
    model: ir.Model, packed: Sequence[tuple[Weight, Packed]], options: WeightOptions
) -> list[Declined]:
    """Put the packed forms in the place of the float weights; says what no kernel takes."""
    names = value_names(model)
    declined: list[Declined] = []
    decoders: dict[ir.Graph, Decoder] = {}
    kernels: list[tuple[Packed, Rows]] = []
    for index, (weight, form) in enumerate(packed):
        if options.mode == "compute":
            reason = refusal(weight)
            if reason is None:
                rows = rows_of(weight, form)
                kernels.append((form, rows))
                KernelWriter(model, names, EXACT).write(weight, rows, f"w{index}")
                continue
            declined.append(Declined("kernel", describe(weight.node), f"decoded at load: {reason}"))
        value, graph = weight.value, weight.graph
        decoder = decoders.setdefault(graph, Decoder(graph, names))
        decoded = decoder.write(form, f"w{index}")
        value.replace_all_uses_with(decoded)
        name = value.name or ""
        del graph.initializers[name]
        decoded.name = name
    check_kernels([rows for _, rows in kernels], [form for form, _ in kernels])
    return declined


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
