"""Quantization: integers for weights and activations, few bits for weights, 16-bit floats."""

from __future__ import annotations

from typing import Any

from onnxlite.apply import run_step
from onnxlite.model import ModelLike
from onnxlite.quantize.core.options import QuantizeStatic, QuantizeStaticReport
from onnxlite.quantize.core.targets import TARGETS
from onnxlite.quantize.dynamic.options import QuantizeDynamic, QuantizeDynamicReport
from onnxlite.quantize.float16.options import ToFloat16, ToFloat16Report
from onnxlite.quantize.mixed.options import QuantizeAuto, QuantizeAutoReport
from onnxlite.quantize.weight_only.options import QuantizeWeights, QuantizeWeightsReport
from onnxlite.samples import SamplesLike
from onnxlite.step import Result, StepContext, from_options

__all__ = [
    "TARGETS",
    "QuantizeAuto",
    "QuantizeDynamic",
    "QuantizeStatic",
    "QuantizeWeights",
    "ToFloat16",
    "quantize_auto",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "to_float16",
]


@from_options(QuantizeStatic)
def quantize_static(
    model: ModelLike, samples: SamplesLike, *, options: QuantizeStatic, context: StepContext
) -> Result[Any, QuantizeStaticReport]:
    """Quantize weights and activations to 8 bits, with ranges from unlabelled samples.

    By default the result is in QDQ form: per-channel int8 weights, uint8 activations, int32
    biases. Conv, Gemm and MatMul with constant weights run on integers, and with them the
    operators between them that have integer kernels. Simplify the model first: a
    BatchNormalization that is not folded stays float.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs, some hundreds, in any form of `SamplesLike`.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if no layer can be quantized. The report has one row per layer, and what
        stays float and why.

    Raises:
        OptionError: a wrong option, an unknown target, or a form or 16-bit activations that the
            target does not have.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model or its quantized form.
        VerificationError: the quantized model's output is not finite.
    """
    return run_step(options, model, samples, context)


@from_options(QuantizeDynamic)
def quantize_dynamic(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: QuantizeDynamic,
    context: StepContext,
) -> Result[Any, QuantizeDynamicReport]:
    """Quantize weights to 8 bits, and activations with scales that each run computes.

    MatMul and Gemm with a constant operand and LSTM run on integers, also in the bodies of
    `If`, `Loop` and `Scan`. Nothing is calibrated, so no sample is needed. The activations of
    a run decide its scales, so a sample's result depends a little on the rest of its batch.
    Simplify the model first.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: inputs of the size that matters: kernels are timed on the shapes of the first
            one, and the first 64 show outliers. None generates inputs, whose dynamic axes are
            small.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if nothing is to be quantized. The report has one row per layer, and what
        stays float and why.

    Raises:
        OptionError: a wrong option or an unknown target.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime cannot run the model or its quantized form.
        VerificationError: the quantized model's output is not finite.
    """
    return run_step(options, model, samples, context)


@from_options(QuantizeAuto)
def quantize_auto(
    model: ModelLike, samples: SamplesLike, *, options: QuantizeAuto, context: StepContext
) -> Result[Any, QuantizeAutoReport]:
    """Quantize to INT8 with `quantize_static` or `quantize_dynamic`, whichever measures better.

    Both are made and compared with the float model, in fidelity and in latency of interleaved
    runs on one thread, on samples that neither was calibrated on. Of those that keep
    `min_sqnr_db` the fastest is returned, and of two that are equally fast the more exact one.
    Where none is both exact enough and faster than float, the model stays float.

    Args:
        model: a float32 model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not
            changed.
        samples: unlabelled inputs in any form of `SamplesLike`, of the sizes that matter: the
            first three quarters of their batches calibrate, the others are held out. A single
            batch does both, which the report says.

    Returns:
        The quantized model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if neither is better. The report has one row per candidate with its figures,
        then the rows of the one that was taken.

    Raises:
        OptionError: a wrong option or an unknown target.
        SamplesError: the samples do not fit, or make an inner value NaN or infinite.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    return run_step(options, model, samples, context)


@from_options(QuantizeWeights)
def quantize_weights(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: QuantizeWeights,
    context: StepContext,
) -> Result[Any, QuantizeWeightsReport]:
    """Store weights in few bits; activations stay float.

    In storage mode weights are packed into bytes and decoded by ordinary ONNX nodes, which ONNX
    Runtime folds when it loads the model: the file is smaller, the speed is that of float
    weights. In compute mode ONNX Runtime's kernels read packed weights of products and
    embeddings: memory is smaller, too, and so is the time of products of few rows.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed. A model
            in external data is read and written tensor by tensor.
        samples: unlabelled inputs, some hundreds, that weights are fitted to.

    Returns:
        The packed model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of the
        input if no weight gets smaller. The report has one row per weight, and what stays
        float and why.

    Raises:
        OptionError: a wrong option, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        VerificationError: ONNX Runtime decodes other numbers than were packed, or does not
            fold the decoding.
    """
    return run_step(options, model, samples, context)


@from_options(ToFloat16)
def to_float16(
    model: ModelLike,
    *,
    samples: SamplesLike | None = None,
    options: ToFloat16,
    context: StepContext,
) -> Result[Any, ToFloat16Report]:
    """Convert float32 weights and activations to 16 bits: half the size, not faster on CPU.

    Every node that onnx's schemas allow computes in float16; the others, and the inputs and
    outputs of subgraphs, stay float32 with casts between. Constants that are not representable
    are clamped and named in the report. float64 and integers stay as they are; so does a
    quantized model. Memory is bounded by the largest tensor.

    Args:
        model: a path, a `ModelProto`, an `ir.Model` or a `Result`; it is not changed.
        samples: unlabelled inputs, in any form of `SamplesLike`, to find overflow on and to
            check the result: values that leave the range of float16 stay float32. Below 53 dB
            some parts stay float32, and layers get biases that correct what rounding shifts.
            Without samples a model of at most 1 GiB is checked on generated inputs.

    Returns:
        The converted model, a `ModelProto` if one came in, otherwise an `ir.Model`; a copy of
        the input if nothing could be converted. The report says what stays float32 and why.

    Raises:
        OptionError: a wrong option, or a pattern that matches nothing.
        SamplesError: the samples do not fit the model.
        ExecutionError: ONNX Runtime does not run the model on the samples.
        VerificationError: ONNX Runtime refuses the result, or an output is NaN or infinite
            where the original's is not.
    """
    return run_step(options, model, samples, context)
