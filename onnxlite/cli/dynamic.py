"""Commands that quantize activations as they come, or choose between that and calibration."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxlite.cli import arguments as args
from onnxlite.cli.optimize import run_steps
from onnxlite.quantize.dynamic.step import KernelChoice
from onnxlite.quantize.mixed.auto import MIN_SQNR_DB
from onnxlite.recipe import QuantizeAuto, QuantizeDynamic, Simplify, Step


def quantize_dynamic(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    target: args.Target = "cpu",
    kernel: Annotated[
        KernelChoice,
        typer.Option(help="Measure which kernel is fastest for each layer, or always use this."),
    ] = "auto",
    embeddings: args.Embeddings = True,
    smooth: args.Smooth = True,
    include: args.Include = None,
    exclude: args.Exclude = None,
    first_simplify: args.SimplifyForIntegers = True,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Convert weights to INT8, and find scales of activations in each run.

    For transformers and recurrent nets. It needs no data; --data shows the sizes of input
    for which kernels are chosen, outliers, and what the result is compared on.

    [bold]Example[/bold]: onnxlite quantize-dynamic model.onnx --data tokens.npz -o int8.onnx
    """
    step = QuantizeDynamic(
        target=target,
        kernel=kernel,
        embeddings=embeddings,
        smooth="auto" if smooth else False,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
    steps: list[Step] = [Simplify(), step] if first_simplify else [step]
    run_steps(
        model,
        steps,
        output,
        data,
        evaluation=evaluation,
        labels=labels,
        benchmark=benchmark,
        json=json,
        quiet=quiet,
    )


def quantize_auto(
    model: args.ModelPath,
    data: args.Data = None,
    output: args.Output = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    target: args.Target = "cpu",
    min_sqnr: Annotated[
        float, typer.Option(metavar="DB", help="Signal to noise that every output must keep.")
    ] = MIN_SQNR_DB,
    include: args.Include = None,
    exclude: args.Exclude = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="COUNT", help="Use at most this many samples.")
    ] = None,
    first_simplify: args.SimplifyForIntegers = True,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Convert to INT8 with calibrated or with dynamic scales, whichever measures better here.

    Both are made and compared with the model on data that neither was calibrated on. The
    model stays as it is where neither is faster and exact enough.

    [bold]Example[/bold]: onnxlite quantize-auto model.onnx --data tokens.npz -o int8.onnx
    """
    step = QuantizeAuto(
        target=target,
        min_sqnr_db=min_sqnr,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        limit=limit,
    )
    steps: list[Step] = [Simplify(), step] if first_simplify else [step]
    run_steps(
        model,
        steps,
        output,
        data,
        evaluation=evaluation,
        labels=labels,
        benchmark=benchmark,
        json=json,
        quiet=quiet,
    )
