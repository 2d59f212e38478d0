"""The command that stores weights in few bits."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from onnxlite.cli import arguments as args
from onnxlite.cli.optimize import run_steps
from onnxlite.quantize.weight_only import Bits, Ends, WeightMethod, WeightMode
from onnxlite.recipe import QuantizeWeights, Simplify, Step

_WIDTHS: dict[str, Bits] = {
    "8": 8,
    "6": 6,
    "5": 5,
    "4": 4,
    "3": 3,
    "2": 2,
    "ternary": "ternary",
    "binary": "binary",
}
_ENDS: dict[str, Ends] = {"auto": "auto", "same": "same", "float": "float", **_WIDTHS}


def quantize_weights(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    bits: Annotated[
        Literal["8", "6", "5", "4", "3", "2", "ternary", "binary"],
        typer.Option(help="Width of a weight; ternary takes 1.6 bits in the file, binary 1."),
    ] = "4",
    block_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Weights that share a scale, 0 for one scale per output channel; default: by "
            "the width.",
        ),
    ] = None,
    method: Annotated[WeightMethod, typer.Option(help="How weights are rounded.")] = "auto",
    mode: Annotated[
        WeightMode,
        typer.Option(
            help="storage: packed in the file, decoded when it is loaded; compute: kernels read "
            "packed weights (MatMulNBits)."
        ),
    ] = "storage",
    ends: Annotated[
        Literal["auto", "same", "float", "8", "6", "5", "4", "3", "2", "ternary", "binary"],
        typer.Option(help="Width of the first and the last layer."),
    ] = "auto",
    size: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Instead of --bits: the widths, layer by layer, that lose least at this share of "
            "the size.",
        ),
    ] = None,
    include: args.Include = None,
    exclude: args.Exclude = None,
    first_simplify: Annotated[
        bool,
        typer.Option("--simplify/--no-simplify", help="Simplify first: constants become weights."),
    ] = True,
    benchmark: args.Benchmark = False,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Store weights in 8, 6, 5, 4, 3 or 2 bits, ternary or binary.

    The file shrinks; the model runs in float and just as fast, because ONNX Runtime decodes the
    weights once when it loads them. With --data, a few hundred unlabelled inputs, weights are
    fitted to them: 4 bits and less need that.

    [bold]Example[/bold]: onnxlite quantize-weights model.onnx --bits 4 -o small.onnx --data x.npy
    """
    step = QuantizeWeights(
        bits=_WIDTHS[bits],
        block_size=block_size,
        method=method,
        mode=mode,
        ends=_ENDS[ends],
        size=size,
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
