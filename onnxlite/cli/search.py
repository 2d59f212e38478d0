"""The command that finds a recipe: optimize."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onnxlite import search
from onnxlite.cli import arguments as args
from onnxlite.cli.exit_codes import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.errors import MissingPackageError, OptionError, SaveError
from onnxlite.report import save_report, search_view, trial_line
from onnxlite.search import Budget

_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def _share(text: str) -> float:
    """`1%` or `0.01`."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is no share: write 1% or 0.01")
    return number / 100 if text.endswith("%") else number


def _bytes(text: str) -> int:
    """`500000`, `500kB` or `0.5MB`."""
    number = text.rstrip("bBkKmMgG ")
    unit = text[len(number) :].strip().lower()
    try:
        return int(float(number) * _BYTES[unit])
    except (ValueError, KeyError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no size: write 500000, 500kB or 0.5MB") from None


def _limit(metavar: str, text: str, parser: Any = None) -> Any:
    return typer.Option(metavar=metavar, help=text, parser=parser, show_default=False)


def optimize(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    max_drop: Annotated[
        Any, _limit("SHARE", "Most that the metric may fall: 1% or 0.01, the default.", _share)
    ] = None,
    min_agreement: Annotated[
        Any, _limit("SHARE", "Least share of samples that keep their top class.", _share)
    ] = None,
    min_cosine: Annotated[float | None, _limit("NUMBER", "Least mean cosine similarity.")] = None,
    min_sqnr: Annotated[float | None, _limit("DB", "Least SQNR of the outputs.")] = None,
    max_error: Annotated[float | None, _limit("NUMBER", "Largest error of an output.")] = None,
    max_latency: Annotated[
        Any, _limit("SHARE", "Latency as a share of the model's: 50% or 0.5.", _share)
    ] = None,
    max_latency_ms: Annotated[
        float | None, _limit("MS", "Latency in milliseconds, one thread, batch 1.")
    ] = None,
    max_size: Annotated[
        Any, _limit("SHARE", "Size of the file as a share of the model's.", _share)
    ] = None,
    max_bytes: Annotated[Any, _limit("SIZE", "Size of the file: 500kB, 2MB.", _bytes)] = None,
    certain: Annotated[
        bool,
        typer.Option("--certain", help="Take a limit that the samples cannot decide as missed."),
    ] = False,
    metric: Annotated[
        Literal["agreement", "accuracy", "cosine", "sqnr", "max-error"] | None,
        typer.Option(help="What --max-drop is about; by default what fits.", show_default=False),
    ] = None,
    labels: args.Labels = None,
    evaluation: args.Evaluation = None,
    prefer: Annotated[
        Literal["both", "latency", "size", "quality"] | None,
        typer.Option(help="What counts among results within the budget.", show_default=False),
    ] = None,
    target: args.Target = "cpu",
    time_limit: Annotated[
        float | None, _limit("SECONDS", "Take the best so far after about this time.")
    ] = None,
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
    report: args.Reports = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Keep trials here, to go on later.", show_default=False
        ),
    ] = None,
    use_cache: Annotated[
        bool, typer.Option("--use-cache/--no-cache", help="Keep trials, to go on later.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Find the smallest and fastest form of a model that keeps to a budget.

    Recipes are tried out, each is measured, and the best is checked on samples that neither
    calibration nor choice has seen. Ctrl-C gives the best so far. The exit code is 3 if
    nothing keeps to the budget, or nothing is better than the model.

    [bold]Example[/bold]: onnxlite optimize model.onnx -o small.onnx --data x.npy --max-drop 1%
    """
    if data is None:
        raise typer.BadParameter("give some hundred real inputs", param_hint="--data")
    limits = (max_drop, min_agreement, min_cosine, min_sqnr, max_error)
    wanted = (max_latency, max_latency_ms, max_size, max_bytes)
    if all(limit is None for limit in (*limits, *wanted)):
        max_drop = 0.01
    budget = Budget(
        max_drop=max_drop,
        min_agreement=min_agreement,
        min_cosine=min_cosine,
        min_sqnr_db=min_sqnr,
        max_error=max_error,
        max_latency=max_latency,
        max_latency_ms=max_latency_ms,
        max_size=max_size,
        max_bytes=max_bytes,
        certain=certain,
    )
    if workers is not None and cluster is not None:
        raise typer.BadParameter("give --workers or --cluster, not both")
    with Terminal(json=json, quiet=quiet) as terminal, _connected(cluster) as remote:
        outcome = search.optimize(
            model,
            output,
            samples=data,
            budget=budget,
            metric=metric,
            labels=labels,
            evaluation=evaluation,
            prefer=prefer,
            target=target,
            time_limit=time_limit,
            executor=remote or workers,
            cache=cache if use_cache else False,
            seed=seed,
            command=shlex.join(["onnxlite", *sys.argv[1:]]),
            on_trial=lambda trial: terminal.say(trial_line(trial)),
            progress=terminal,
        )
        if recipe is not None and outcome.report.search.met:
            _write(recipe, outcome.report.recipe)
        for path in report or ():
            save_report(outcome.report, path)
    terminal.show("optimize", outcome.report, search_view(outcome.report))
    if not outcome.report.search.met:
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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SaveError(f"cannot write {str(path)!r}: {error.strerror}") from error
