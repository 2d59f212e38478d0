"""Commands that change how weights are stored: to-float16, sparse-storage."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxlite.cli import arguments as args
from onnxlite.cli.optimize import run_steps
from onnxlite.quantize.float16.convert import IoType
from onnxlite.quantize.float16.step import HalfMode, HalfType
from onnxlite.recipe import Simplify, SparseStorage, Step, ToFloat16


def to_float16(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    dtype: Annotated[
        HalfType, typer.Option(help="bfloat16 has float32's range; for --mode storage only.")
    ] = "float16",
    io: Annotated[
        IoType,
        typer.Option(
            help="keep: inputs and outputs as they are, with casts behind and before; float16: "
            "whoever calls the model feeds 16 bits."
        ),
    ] = "keep",
    mode: Annotated[
        HalfMode | None,
        typer.Option(
            help="compute: operators work on 16 bits; storage: weights are cast back at load, "
            "which runs at the speed of float32. Default: compute, storage for bfloat16.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Nodes whose name or operator matches stay float32. Repeatable.",
            show_default=False,
        ),
    ] = None,
    first_simplify: Annotated[
        bool,
        typer.Option("--simplify/--no-simplify", help="Simplify first: fewer nodes to cast at."),
    ] = True,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Halve the file: weights, and with --mode compute also activations, in 16 bits.

    On CPU it is not faster: ONNX Runtime casts most operators back to float32. With --data
    what leaves the range of float16 is found and stays float32.

    [bold]Example[/bold]: onnxlite to-float16 model.onnx --data x.npy -o half.onnx
    """
    step = ToFloat16(keep=tuple(keep or ()), io=io, dtype=dtype, mode=mode)
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


def sparse_storage(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    benchmark: args.Benchmark = False,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Store weights without their zeros, where the file gets smaller: above 67% of zeros.

    ONNX Runtime makes them dense at load, so nothing else changes.

    [bold]Example[/bold]: onnxlite sparse-storage pruned.onnx -o sparse.onnx
    """
    run_steps(model, [SparseStorage()], output, data, benchmark=benchmark, json=json, quiet=quiet)
