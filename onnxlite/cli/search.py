"""The command that finds a recipe: optimize."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated

import msgspec
import typer

import onnxlite as ol
from onnxlite.cli import options as args
from onnxlite.cli.app import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.errors import MissingPackageError, OptionError
from onnxlite.report import save_report, search_view, trial_line, write_text
from onnxlite.search.job import OptimizeOptions


@args.with_options(OptimizeOptions, leave_out=["output", "cache"])
def optimize(
    model: args.ModelPath,
    options: OptimizeOptions,
    output: args.Output = None,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    metric: args.TaskMetric = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes for the trials.", show_default=False),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Dask scheduler for the trials, tcp://host:8786.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe here, as TOML.", show_default=False),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where trials are kept, so that a search goes on where one was interrupted.",
            show_default="the user's cache",
        ),
    ] = None,
    use_cache: Annotated[
        bool, typer.Option("--cached/--no-cache", help="Keep nothing, and look nothing up.")
    ] = True,
    floor_db: args.FloorDb = None,
    report: args.Reports = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Recipes are tried, each is measured, and the best is checked on samples that neither
    calibration nor choice has seen. Ctrl-C gives the best so far. The exit code is 3 if
    nothing meets the budget, or nothing is better than the model. Without a limit it is
    --max-drop 1%.

    [bold]Example[/bold]: onnxlite optimize model.onnx -o small.onnx --data x.npy --max-drop 1%
    """
    if data is None:
        raise typer.BadParameter("give some hundred real inputs", param_hint="--data")
    if workers is not None and cluster is not None:
        raise typer.BadParameter("give --workers or --cluster, not both")
    kept = {"output": output, "cache": cache if use_cache else False}
    with Terminal(json=json, quiet=quiet) as terminal, _connected(cluster) as remote:
        found = ol.optimize(
            model,
            data,
            batch_axis=args.batch_axis(batch_axis),
            metric=metric,
            labels=labels,
            evaluation=evaluation,
            executor=remote or workers,
            on_trial=lambda trial: terminal.say(trial_line(trial)),
            progress=terminal,
            floor_db=floor_db,
            **{**msgspec.structs.asdict(options), **kept},
        )
        command = shlex.join(["onnxlite", *sys.argv[1:]])
        record = msgspec.structs.replace(found.report, command=command)
        if recipe is not None and record.search.met:
            write_text(recipe, record.recipe)
        for path in report or ():
            save_report(record, path)
    terminal.show("optimize", record, search_view(record))
    if not record.search.met:
        raise typer.Exit(ExitCode.NOT_REACHED)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Executor | None]:
    """The executor of a Dask cluster, for as long as the command runs."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError(
            "--cluster needs the package distributed: pip install 'onnxlite[cluster]'"
        ) from error
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise OptionError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        yield client.get_executor()


COMMANDS: Mapping[str, Callable[..., None]] = {"optimize": optimize}
