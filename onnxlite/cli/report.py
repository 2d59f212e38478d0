"""The command that shows a saved report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxlite.cli import arguments as args
from onnxlite.cli.terminal import Terminal
from onnxlite.report import load_report, report_kind, run_view, save_report, search_view
from onnxlite.search import OptimizeReport


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
    """Show the report of optimize or run again, or make a page of it.

    [bold]Example[/bold]: onnxlite report report.json -o page.html
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        record = load_report(source)
        if output is not None:
            save_report(record, output)
    view = search_view(record) if isinstance(record, OptimizeReport) else run_view(record)
    if output is None or json:
        terminal.show(report_kind(record), record, view)
