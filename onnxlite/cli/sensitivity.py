"""The command that tells which layer costs how much fidelity in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxlite import sensitivity as measured_sensitivity
from onnxlite import simplify as simplification
from onnxlite.cli import arguments as args
from onnxlite.cli.terminal import Terminal
from onnxlite.model import load
from onnxlite.report import sensitivity_plot, sensitivity_view


def sensitivity(
    model: args.ModelPath,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "-d",
            metavar="FILE|FOLDER",
            help="Real inputs, without labels, as for quantize.",
            show_default=False,
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it as an SVG file.", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(help="Whose integer types.")] = "cpu",
    include: args.Include = None,
    exclude: args.Exclude = None,
    per_layer: Annotated[
        int,
        typer.Option(min=1, metavar="COUNT", help="Samples that meet each layer's noise."),
    ] = 8,
    confirm: Annotated[
        int,
        typer.Option(
            min=0, metavar="COUNT", help="Layers that are confirmed by a real evaluation."
        ),
    ] = 3,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Measure each layer's kernels.")
    ] = True,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="COUNT", help="Use at most this many samples.")
    ] = None,
    first_simplify: Annotated[
        bool, typer.Option("--simplify/--no-simplify", help="Simplify first, as quantize does.")
    ] = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Show which layer costs how much fidelity in INT8 and how much time it buys.

    The names are those that [bold]onnxlite quantize --exclude[/bold] takes.

    [bold]Example[/bold]: onnxlite sensitivity model.onnx --data images.npy --plot layers.svg
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        source = load(model)
        result = measured_sensitivity(
            simplification(source) if first_simplify else source,
            data,
            target=target,
            include=include or (),
            exclude=exclude or (),
            per_layer=per_layer,
            confirm=confirm,
            times=times,
            limit=limit,
            progress=terminal,
        )
        if plot is not None:
            plot.write_text(sensitivity_plot(result), encoding="utf-8")
    terminal.show("sensitivity", result, sensitivity_view(result))
