"""Commands that look at models and change none: inspect, channels, compare, benchmark."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxlite import evaluate
from onnxlite.analysis import summary as summaries
from onnxlite.cli import arguments as args
from onnxlite.cli.exit_codes import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.prune import explain_channels
from onnxlite.report import channels_view, fidelity_view, latency_view, summary_view


def inspect(
    model: args.ModelPath,
    layers: Annotated[bool, typer.Option("--layers", help="Also show one row per layer.")] = False,
    data: args.Data = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size that MACs are counted for.")] = 1,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Show what a model is: inputs, outputs, operators, parameters, MACs, bytes.

    --data is needed only where the sizes of dynamic axes cannot be guessed.

    [bold]Example[/bold]: onnxlite inspect model.onnx --layers
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        summary = summaries.inspect(model, samples=data, batch=batch)
    terminal.show("summary", summary, summary_view(summary, layers=layers))


def channels(model: args.ModelPath, json: args.Json = False, quiet: args.Quiet = False) -> None:
    """Show which channels can be removed together, and why others must stay.

    A group holds interchangeable units: channels, attention heads or hidden units that have
    to go from all its layers at once. Remove them with `onnxlite prune-channels`.

    [bold]Example[/bold]: onnxlite channels model.onnx
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        report = explain_channels(model)
    terminal.show("channels", report, channels_view(report))


def compare(
    reference: args.ReferencePath,
    candidate: args.CandidatePath,
    data: args.Data = None,
    labels: args.Labels = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="Exit with 3 if an output's SQNR is lower.", show_default=False
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Exit with 3 if fewer samples, 0 to 1, keep their top class.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also compare layer by layer: which one breaks it?")
    ] = False,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Measure how well one model reproduces the outputs of another.

    SQNR is the signal to noise ratio of the outputs in dB: above 40 hardly anything has
    changed, 20 is usual for a good INT8 model, below 10 something is wrong. Without
    --data the inputs are generated, which says little about a quantized model.

    [bold]Example[/bold]: onnxlite compare model.onnx int8.onnx --data images.npy --min-sqnr 20
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        fidelity = evaluate.compare(
            reference, candidate, data, labels=labels, layers=layers, progress=terminal
        )
    terminal.show("fidelity", fidelity, fidelity_view(fidelity))
    agreement = fidelity.agreement
    if min_sqnr is not None and fidelity.sqnr_db < min_sqnr:
        terminal.say(f"SQNR is {fidelity.sqnr_db:.1f} dB, the limit is {min_sqnr:g} dB")
        raise typer.Exit(ExitCode.NOT_REACHED)
    if min_agreement is not None and (agreement is None or agreement < min_agreement):
        have = (
            "not known: no output holds class scores" if agreement is None else f"{agreement:.2%}"
        )
        terminal.say(f"top-1 agreement is {have}, the limit is {min_agreement:.2%}")
        raise typer.Exit(ExitCode.NOT_REACHED)


def benchmark(
    reference: args.ReferencePath,
    candidate: args.CandidatePath,
    data: args.Data = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that one inference may use.")] = 1,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rounds A B B A; left out, as many as ten seconds allow.",
            show_default=False,
        ),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit with 3 if candidate latency / reference latency is higher.",
            show_default=False,
        ),
    ] = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Measure the latency of two models in interleaved pairs.

    The ratio is candidate / reference: below 1 the candidate is faster. Its interval says
    how sure that is; close other programs if it is wide.

    [bold]Example[/bold]: onnxlite benchmark model.onnx int8.onnx --threads 1
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        latency = evaluate.benchmark(
            reference,
            candidate,
            samples=data,
            threads=threads,
            rounds=rounds,
            progress=terminal,
        )
    terminal.show("latency", latency, latency_view(latency))
    if max_ratio is not None and latency.ratio.median > max_ratio:
        terminal.say(f"the latency ratio is {latency.ratio}, the limit is {max_ratio:g}")
        raise typer.Exit(ExitCode.NOT_REACHED)
