"""Quantization: weights and activations on 8-bit integers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor

import onnx_ir as ir

from onnxlite.model import ModelLike, in_kind, load
from onnxlite.quantize.core.options import (
    Form,
    ObserverChoice,
    PlacementBy,
    Rounding,
    Smooth,
    StaticOptions,
    WeightBits,
)
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.quantize.mixed.mixed_precision import quantize_mixed_ir
from onnxlite.quantize.static.step import quantize_static_ir
from onnxlite.records import Progress, ReportSink, announce, no_progress
from onnxlite.samples import SamplesLike

logger = logging.getLogger(__name__)


@in_kind
def quantize_static(
    model: ModelLike,
    samples: SamplesLike,
    *,
    target: str = "cpu",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    placement: PlacementBy = "measured",
    rounding: Rounding = "compensated",
    smooth: Smooth = "auto",
    embeddings: bool = True,
    observer: ObserverChoice = "auto",
    weight_bits: WeightBits = 8,
    equalize: bool = True,
    form: Form = "qdq",
    int16: Sequence[str] = (),
    min_sqnr_db: float | None = None,
    limit: int | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    on_report: ReportSink | None = None,
    progress: Progress = no_progress,
) -> ir.Model:
    """Quantize weights and activations to 8 bits, with ranges from unlabelled samples.

    By default the result is in QDQ form: per-channel int8 weights, uint8 activations, int32
    biases.
    Conv, Gemm and MatMul with constant weights run on integers, and with them the
    operators between them that have integer kernels. Simplify the model first: a
    BatchNormalization that is not folded stays float.

    Args:
        model: a float32 model: path, `ModelProto` or `ir.Model`; it is not changed.
        samples: unlabelled inputs, some hundreds, in any form of `SamplesLike`.
        target: which runtime's integer types to use: a row of `onnxlite.quantize.TARGETS`.
        include: patterns (`fnmatch`) of layer names to quantize; empty means all.
        exclude: patterns of names that stay float.
        placement: `"measured"` leaves layers in float where integers, with the conversions
            around them, are measured to be slower on this machine (one thread; on one sample
            and on up to eight at once), and the whole model where nothing is gained: the
            result is never slower than the float model. It is done for those of the targets
            `cpu`, `cpu-avx2` and `cpu-arm` that this machine can be, and its findings are
            kept. A model of more than 1 GiB is not timed. `"everything"` quantizes whatever
            can be.
        rounding: `"compensated"` fits each layer's weights to the samples, on the integer
            activations that the layer gets, and rounds them so that their errors cancel (GPTQ,
            Frantar et al. 2023); a scale and bias per output channel make up for the rest. The
            nearest integers are kept where they are no worse on samples held out.
            `"nearest"` only rounds.
        smooth: move outliers of the channels that MatMul and Gemm read into the weights
            (SmoothQuant, Xiao et al. 2023): `"auto"` where the error on samples falls clearly,
            True wherever it can be done, False never.
        equalize: scale channels up that use little of their tensor's range, and divide where
            they are read, if the quantized model is closer to the float one for it on samples
            held out (cross-layer equalization, after Nagel et al. 2019).
        embeddings: also store look-up tables with 8 bits and a scale per row, for the targets
            `cpu`, `cpu-avx2` and `cpu-arm`: smaller, hardly slower.
        form: `"qdq"` writes Q and DQ nodes around float operators, which every runtime reads.
            `"qoperator"` writes ONNX Runtime's integer operators, with the same results and a
            smaller file; for the targets `cpu`, `cpu-avx2` and `cpu-arm`.
        int16: patterns of names of layers that get 16-bit activations, for the targets `qnn` and
            `generic`; the model is then brought to opset 21, which has such types.
        min_sqnr_db: the SQNR at the worst output, in dB, to be reached on samples held out (a
            quarter of the feeds): as few layers as are needed for it stay float, or get 16-bit
            activations where the target has them; those whose noise weighs most for the time
            that is lost. The report says which, and whether it was reached.
        weight_bits: 8, or fewer, packed in the file: as fast as 8 bits, and smaller. Layers that
            add up few products, as depthwise convolutions do, keep 8.
        observer: which range of an activation its integers cover: `"minmax"`, all that was
            seen; `"moving-average"`, the limits of a batch on average; `"percentile"`, all
            but one in 100,000; `"entropy"`, the least divergence of the distributions;
            `"mse"`, the least squared error. `"auto"` measures for each activation what the
            error of these ranges does to its readers, and keeps min/max where its choice is not
            better at the model's outputs on samples held out.
        limit: use at most this many samples.
        threads: intra-operator threads for calibration; None takes all cores.
        executor: whose workers calibrate on a shard of the samples each; what they find merges
            exactly, so the result is the same.
        on_report: called with the `StepReport`: one row per layer, and what stays float and why.
        progress: called after every calibration batch.

    Returns:
        The quantized model, or a copy of the input if no layer can be quantized (the report
        and a logged warning say why): a `ModelProto` if one came in, else an `ir.Model`.

    Raises:
        OptionError: an unknown target, a form or 16-bit activations that it does not
            have, or a `min_sqnr_db` that is no number.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model or its quantized form.
        VerificationError: the quantized model's output is not finite.
    """
    result, report = quantize_mixed_ir(
        load(model),
        samples,
        StaticOptions(
            target=target,
            include=tuple(include),
            exclude=tuple(exclude),
            placement=placement,
            rounding=rounding,
            smooth=smooth,
            embeddings=embeddings,
            observer=observer,
            weight_bits=weight_bits,
            equalize=equalize,
            form=form,
            int16=tuple(int16),
            min_sqnr_db=min_sqnr_db,
            limit=limit,
            threads=threads,
            executor=executor,
        ),
        progress=progress,
    )
    announce(report, on_report, logger)
    return result


__all__ = [
    "TARGETS",
    "Form",
    "ObserverChoice",
    "PlacementBy",
    "Rounding",
    "Smooth",
    "StaticOptions",
    "WeightBits",
    "quantize_mixed_ir",
    "quantize_static",
    "quantize_static_ir",
]
