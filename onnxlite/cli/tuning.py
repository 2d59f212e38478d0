"""The command that trains a compressed model on its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxlite.cli import arguments as args
from onnxlite.cli.optimize import run_steps
from onnxlite.recipe import Tune


def tune(
    student: Annotated[
        Path,
        typer.Argument(metavar="STUDENT", help="The compressed model.", show_default=False),
    ],
    reference: args.ReferencePath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of the optimizer; default: 20 passes over the data."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of training at most.")
    ] = None,
    loss: Annotated[
        Literal["auto", "kl", "mse"],
        typer.Option(help="Squared error, or with divergence of class probabilities as well."),
    ] = "auto",
    lr: Annotated[
        float | None, typer.Option(help="Learning rate, relative to the size of weights.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 32,
    vary: Annotated[
        bool, typer.Option("--vary", help="Train on mixed, shifted and mirrored inputs as well.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="COUNT", help="Use at most this many samples.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: all cores.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep the state of training there, and go on from it after an interruption.",
        ),
    ] = None,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Train a compressed model to compute what its original does, without labels.

    Layers, types and kernels stay; weights, biases and scales are learned. The report compares
    the result with REFERENCE. It needs torch: pip install 'onnxlite\\[tune]'.

    [bold]Example[/bold]: onnxlite tune small.onnx model.onnx --data images.npy -o better.onnx
    """
    step = Tune(
        student=str(student),
        steps=steps,
        time_limit=time_limit,
        loss=loss,
        lr=lr,
        batch=batch,
        vary=vary,
        limit=limit,
        threads=threads,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )
    run_steps(
        reference,
        [step],
        output,
        data,
        evaluation=evaluation,
        labels=labels,
        benchmark=benchmark,
        json=json,
        quiet=quiet,
    )
