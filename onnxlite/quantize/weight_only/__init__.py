"""Weights of few bits: packed in the file, decoded by ONNX nodes when the model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir as ir

from onnxlite.model import ModelLike, in_kind, load
from onnxlite.packing import Bits
from onnxlite.quantize.weight_only.options import Ends, WeightMethod, WeightMode, WeightOptions
from onnxlite.quantize.weight_only.step import quantize_weights_ir
from onnxlite.records import Progress, ReportSink, announce, no_progress
from onnxlite.samples import SamplesLike

logger = logging.getLogger(__name__)


@in_kind
def quantize_weights(
    model: ModelLike,
    samples: SamplesLike | None = None,
    *,
    bits: Bits = 4,
    block_size: int | None = None,
    method: WeightMethod = "auto",
    mode: WeightMode = "storage",
    ends: Ends = "auto",
    size: float | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    threads: int | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Store weights in few bits; what the model computes with stays float.

    In storage mode weights are packed into bytes and decoded by ordinary ONNX nodes, which ONNX
    Runtime folds when it loads the model: the file is smaller, the speed is that of float
    weights. In compute mode ONNX Runtime's kernels read packed weights of products and
    embeddings: memory is smaller, too, and so is the time of products of few rows.

    Args:
        model: path, `ModelProto` or `ir.Model`; it is not changed. A model in external data is
            read and written tensor by tensor.
        samples: unlabelled inputs, some hundreds, that weights are fitted to.
        bits: 8, 6, 5, 4, 3, 2, `"ternary"` (-1, 0, 1: 1.6 bits on disk) or `"binary"`.
            Depthwise convolutions keep 8 bits.
        block_size: how many weights share a scale; 0 for one scale per output channel. By
            default 32 for 2 to 4 bits and 0 for all else. Where it does not divide a layer's
            sums, the closest divisor is taken.
        method: `"rtn"` rounds to nearest. `"gptq"` fits each layer to the float model on the
            input that it has by now, rounds it with compensation (Frantar et al. 2023), and
            gives it a new scale and bias per output channel; rounding to nearest is kept where
            it is no worse on samples held out. `"hqq"` chooses zero points without samples by
            half-quadratic splitting (Badri & Shaji 2023). `"auto"` is `"gptq"` if there are
            samples, else `"hqq"`, and `"rtn"` for models of a GiB and more.
        mode: `"storage"`, or `"compute"` for MatMulNBits and GatherBlockQuantized in 2, 4 and 8
            bits (domain com.microsoft), the rest decoded at load. Activations are rounded to int8
            in the products where that costs at most 0.5 dB or leaves 30 dB.
        ends: width of the first and the last layer: `"auto"` gives the first 8 bits, and the
            last as well below 4 bits; `"same"`, `"float"`, or a width.
        size: share of the model's size that the result may have: each weight then gets the width,
            ternary to 8 bits, that takes away most damage per byte, and `bits` and `ends` say
            nothing. Damage is measured at the outputs.
        include: patterns (`fnmatch`) of weight or node names; empty means every weight of an
            operator that has some. A named weight of any other operator is taken, too.
        exclude: patterns of names that stay float.
        limit: use at most this many samples.
        threads: None takes all cores.
        on_report: called with the `StepReport`: one row per weight, and what stays and why.
        progress: called after every weight; an exception that it raises ends the work.

    Returns:
        The packed model, or a copy of the input if no weight gets smaller: a `ModelProto` if
        one came in, else an `ir.Model`.

    Raises:
        OptionError: an option out of range, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        VerificationError: ONNX Runtime decodes other numbers than were packed, or does not
            fold the decoding.
    """
    result, report = quantize_weights_ir(
        load(model),
        WeightOptions(
            bits=bits,
            block_size=block_size,
            method=method,
            mode=mode,
            ends=ends,
            size=size,
            include=tuple(include),
            exclude=tuple(exclude),
            limit=limit,
            threads=threads,
        ),
        samples,
        progress=progress,
    )
    announce(report, on_report, logger)
    return result


__all__ = [
    "Bits",
    "Ends",
    "WeightMethod",
    "WeightMode",
    "WeightOptions",
    "quantize_weights",
    "quantize_weights_ir",
]
