"""Commands that look at models or reports and change none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec.structs import asdict

import onnxlite as ol
from onnxlite.analysis.summary import InspectOptions
from onnxlite.cache import cache_info, clear_cache
from onnxlite.cli import options as args
from onnxlite.cli.app import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.errors import OptionError
from onnxlite.evaluate.benchmark import BenchmarkOptions
from onnxlite.evaluate.compare import CompareOptions, Fidelity
from onnxlite.quantize.mixed.sensitivity import SensitivityOptions
from onnxlite.report import (
    channels_view,
    fidelity_view,
    latency_view,
    load_report,
    report_kind,
    run_view,
    save_report,
    search_view,
    sensitivity_plot,
    sensitivity_view,
    summary_view,
    write_text,
)
from onnxlite.report.text import size_text
from onnxlite.search import OptimizeReport


@args.with_options(InspectOptions)
def inspect(
    model: args.ModelPath,
    options: InspectOptions,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also show one row per layer.")] = False,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """--data is needed only where the sizes of dynamic axes cannot be guessed.

    [bold]Example[/bold]: onnxlite inspect model.onnx --layers
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        summary = ol.inspect(
            model, samples=data, batch_axis=args.batch_axis(batch_axis), **asdict(options)
        )
    terminal.show("summary", summary, summary_view(summary, layers=layers))


def channels(model: args.ModelPath, json: args.Json = False, quiet: args.Quiet = False) -> None:
    """A group holds interchangeable units: channels, attention heads or hidden units that have
    to go from all its layers at once. Remove them with `onnxlite prune-channels`.

    [bold]Example[/bold]: onnxlite channels model.onnx
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        report = ol.explain_channels(model)
    terminal.show("channels", report, channels_view(report))


@args.with_options(CompareOptions)
def compare(
    reference: args.ReferencePath,
    candidate: args.CandidatePath,
    options: CompareOptions,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
    labels: args.Labels = None,
    metric: args.TaskMetric = None,
    max_drop: args.MaxDrop = None,
    min_sqnr_db: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Exit with 3 if the SQNR of a part of an output is lower.",
            show_default=False,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Exit with 3 if fewer samples, 0 to 1, keep their top class.",
            show_default=False,
        ),
    ] = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """SQNR is the signal to noise ratio of the outputs in dB: above 40 hardly anything has
    changed, 20 is usual for a good INT8 model, below 10 something is wrong. Parts of an output
    whose scales differ, as boxes and scores, are judged each by itself. Without --data the
    inputs are generated, which says little about a quantized model.

    [bold]Example[/bold]: onnxlite compare model.onnx int8.onnx --data images.npy --min-sqnr-db 20
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        fidelity = ol.compare(
            reference,
            candidate,
            samples=data,
            batch_axis=args.batch_axis(batch_axis),
            labels=labels,
            metric=metric,
            progress=terminal,
            **asdict(options),
        )
    terminal.show("fidelity", fidelity, fidelity_view(fidelity))
    if max_drop is not None and (excess := _lost_too_much(fidelity, max_drop)):
        terminal.say(excess)
        raise typer.Exit(ExitCode.NOT_REACHED)
    agreement = fidelity.agreement
    if min_sqnr_db is not None and fidelity.sqnr_db < min_sqnr_db:
        terminal.say(
            f"SQNR of {fidelity.worst_part} is {fidelity.sqnr_db:.1f} dB, the limit is "
            f"{min_sqnr_db:g} dB"
        )
        raise typer.Exit(ExitCode.NOT_REACHED)
    if min_agreement is not None and (agreement is None or agreement < min_agreement):
        have = (
            "not known: no output holds class scores" if agreement is None else f"{agreement:.2%}"
        )
        terminal.say(f"top-1 agreement is {have}, the limit is {min_agreement:.2%}")
        raise typer.Exit(ExitCode.NOT_REACHED)


def _lost_too_much(fidelity: Fidelity, limit: float) -> str | None:
    """Say which task metric loses more than a limit, or cannot be decided; None if all hold."""
    if not fidelity.metrics:
        return "no task metric: give real inputs by --data"
    for metric in fidelity.metrics:
        if metric.drop is None:
            return f"{metric.name} is undecided: the samples have nothing that could be lost"
        if metric.drop > limit:
            return f"{metric.name} loses {metric.drop:.2%}, the limit is {limit:.2%}"
    return None


@args.with_options(BenchmarkOptions, leave_out=["seed"])
def benchmark(
    reference: args.ReferencePath,
    candidate: args.CandidatePath,
    options: BenchmarkOptions,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
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
    """The ratio is candidate / reference: below 1 the candidate is faster. Its interval says
    how sure that is; close other programs if it is wide.

    [bold]Example[/bold]: onnxlite benchmark model.onnx int8.onnx --threads 1
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        latency = ol.benchmark(
            reference,
            candidate,
            samples=data,
            batch_axis=args.batch_axis(batch_axis),
            progress=terminal,
            **asdict(options),
        )
    terminal.show("latency", latency, latency_view(latency))
    if max_ratio is not None and latency.ratio.median > max_ratio:
        terminal.say(f"the latency ratio is {latency.ratio}, the limit is {max_ratio:g}")
        raise typer.Exit(ExitCode.NOT_REACHED)


@args.with_options(SensitivityOptions)
def sensitivity(
    model: args.ModelPath,
    options: SensitivityOptions,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it as an SVG file.", show_default=False),
    ] = None,
    simplify: args.SimplifyFirst = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """The names are those that [bold]onnxlite quantize-static --exclude[/bold] takes.

    [bold]Example[/bold]: onnxlite sensitivity model.onnx --data images.npy --plot layers.svg
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        if data is None:
            raise OptionError("sensitivity needs samples: give some hundred inputs by --data")
        source = ol.load(model)
        if simplify:
            source = ol.simplify(source).model
        result = ol.sensitivity(
            source,
            data,
            batch_axis=args.batch_axis(batch_axis),
            progress=terminal,
            **asdict(options),
        )
        if plot is not None:
            write_text(plot, sensitivity_plot(result))
    terminal.show("sensitivity", result, sensitivity_view(result))


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="REPORT",
            help="What --json or --report wrote: a .json file.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the report here: .html, one page without network, or .json.",
            show_default=False,
        ),
    ] = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """[bold]Example[/bold]: onnxlite report report.json -o page.html."""
    with Terminal(json=json, quiet=quiet) as terminal:
        record = load_report(source)
        if output is not None:
            save_report(record, output)
    view = search_view(record) if isinstance(record, OptimizeReport) else run_view(record)
    if output is None or json:
        terminal.show(report_kind(record), record, view)


def cache(
    action: Annotated[
        Literal["info", "clear"],
        typer.Argument(help="info shows size and place, clear removes everything."),
    ] = "info",
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Latencies, measured placements and the trials of searches are kept in the user's cache.

    [bold]Example[/bold]: onnxlite cache info
    """
    terminal = Terminal(json=json, quiet=quiet)
    if action == "clear":
        terminal.say(f"{size_text(clear_cache())} removed")
    else:
        info = cache_info()
        terminal.show("cache", info, str(info))


COMMANDS: Mapping[str, Callable[..., None]] = {
    "inspect": inspect,
    "channels": channels,
    "sensitivity": sensitivity,
    "compare": compare,
    "benchmark": benchmark,
    "report": report,
    "cache": cache,
}
