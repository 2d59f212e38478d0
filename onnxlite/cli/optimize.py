"""Commands that make a model from a model: simplify, prune, quantize, run, demo."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from numpy.typing import NDArray

from onnxlite import demo as demo_run
from onnxlite import recipe as recipes
from onnxlite.cli import arguments as args
from onnxlite.cli.exit_codes import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.prune.importance import Importance
from onnxlite.prune.weight_step import Scope, SparseMethod
from onnxlite.quantize import Form, ObserverChoice, PlacementBy, Rounding, WeightBits
from onnxlite.recipe import PruneChannels, PruneWeights, QuantizeStatic, Recipe, Simplify, Step
from onnxlite.report import run_view, save_report


def simplify(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Check every rewrite in ONNX Runtime."),
    ] = True,
    onnxsim: Annotated[
        bool, typer.Option("--onnxsim/--no-onnxsim", help="Let onnxsim have a turn as well.")
    ] = True,
    time_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="Stop onnxsim after this time.")
    ] = 120.0,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Fold, fuse and clean up the graph without changing what it computes.

    The result is compared with the model on --data, or on generated inputs.

    [bold]Example[/bold]: onnxlite simplify model.onnx -o simple.onnx
    """
    step = Simplify(verify=verify, onnxsim=onnxsim, time_limit=time_limit)
    run_steps(model, [step], output, data, benchmark=benchmark, json=json, quiet=quiet)


def prune(
    model: args.ModelPath,
    output: args.Output = None,
    sparsity: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of weights to set to zero, 0 to below 1."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Instead: zero every weight smaller than this."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="N:M", help="Instead: at most N of M neighbours, for example 2:4."),
    ] = None,
    method: Annotated[
        SparseMethod, typer.Option(help="Which weights; auto is obc with --data, else magnitude.")
    ] = "auto",
    scope: Annotated[
        Scope,
        typer.Option(help="Reach the share in each layer, or in the model as a whole."),
    ] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Rounds in which the share is reached.")] = 1,
    include: args.Include = None,
    exclude: args.Exclude = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    benchmark: args.Benchmark = False,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Set weights to zero; with --data those that the others can make up for.

    The file then compresses better (see "zipped"); on CPU it does not run faster.

    [bold]Example[/bold]: onnxlite prune model.onnx --sparsity 0.5 -o pruned.onnx --data x.npy
    """
    step = PruneWeights(
        sparsity=sparsity,
        threshold=threshold,
        pattern=pattern,
        method=method,
        scope=scope,
        steps=steps,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
    run_steps(
        model,
        [step],
        output,
        data,
        evaluation=evaluation,
        labels=labels,
        benchmark=benchmark,
        json=json,
        quiet=quiet,
    )


def prune_channels(
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    macs: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of the MACs.")
    ] = None,
    params: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Keep this share of the parameters.")
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Keep this share of the latency, measured here."),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Remove this share of every group of channels."),
    ] = None,
    importance: Annotated[
        Importance, typer.Option(help="Which channels go; auto looks at --data.")
    ] = "auto",
    round_to: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Keep multiples of N; default: what runs fast here."),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Names of nodes or weights whose shapes stay."),
    ] = None,
    branches: Annotated[
        bool,
        typer.Option("--branches/--no-branches", help="Whole blocks beside a shortcut may go."),
    ] = True,
    repair: Annotated[
        bool, typer.Option("--repair/--no-repair", help="Fit what remains to --data.")
    ] = True,
    first_simplify: Annotated[
        bool,
        typer.Option("--simplify/--no-simplify", help="Simplify first: more channels are free."),
    ] = True,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Remove channels, so that layers become smaller and faster.

    Give one of --macs, --params, --latency and --ratio, and --data: a few hundred unlabelled
    inputs, by which channels are chosen and what remains is repaired.
    [bold]onnxlite channels[/bold] shows what may go.

    [bold]Example[/bold]: onnxlite prune-channels model.onnx --macs 0.5 --data x.npy -o small.onnx
    """
    step = PruneChannels(
        macs=macs,
        params=params,
        latency=latency,
        ratio=ratio,
        importance=importance,
        round_to="auto" if round_to is None else round_to,
        protect=tuple(protect or ()),
        branches=branches,
        repair="auto" if repair else False,
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


def quantize(
    model: args.ModelPath,
    data: args.Data = None,
    output: args.Output = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    target: args.Target = "cpu",
    include: args.Include = None,
    exclude: args.Exclude = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="COUNT", help="Calibrate on at most this many samples."),
    ] = None,
    placement: Annotated[
        PlacementBy,
        typer.Option(
            help="Leave in float what is not faster on integers here, or quantize everything."
        ),
    ] = "measured",
    observer: Annotated[
        ObserverChoice,
        typer.Option(help="Which range an activation's integers cover."),
    ] = "auto",
    weight_bits: Annotated[
        int, typer.Option(help="Of weights: 8, or 6, 4 or 3, packed: as fast, and smaller.")
    ] = 8,
    rounding: Annotated[
        Rounding,
        typer.Option(help="Fit weights to the samples before they are rounded, or only round."),
    ] = "compensated",
    smooth: args.Smooth = True,
    equalize: Annotated[
        bool, typer.Option(help="Scale channels so that they use their tensor's range.")
    ] = True,
    embeddings: args.Embeddings = True,
    form: Annotated[
        Form, typer.Option(help="Q and DQ nodes, or ONNX Runtime's smaller integer operators.")
    ] = "qdq",
    int16: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Layers that get 16-bit activations (qnn, generic)."),
    ] = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Keep so many layers float that this SQNR is reached on samples held out.",
            show_default=False,
        ),
    ] = None,
    first_simplify: args.SimplifyForIntegers = True,
    benchmark: args.Benchmark = True,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Convert weights and activations to INT8, with scales found on real inputs.

    Some hundred samples from the model's everyday work are enough; labels are not needed.

    [bold]Example[/bold]: onnxlite quantize model.onnx --data images.npy -o int8.onnx
    """
    step = QuantizeStatic(
        target=target,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        placement=placement,
        rounding=rounding,
        smooth="auto" if smooth else False,
        embeddings=embeddings,
        observer=observer,
        weight_bits=cast(WeightBits, weight_bits),
        equalize=equalize,
        form=form,
        int16=tuple(int16 or ()),
        min_sqnr_db=min_sqnr,
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


def run(
    recipe: args.RecipePath,
    model: args.ModelPath,
    output: args.Output = None,
    data: args.Data = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    benchmark: args.Benchmark = True,
    report: args.Reports = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    r"""Apply the steps of a recipe, check each, and measure the result.

    [bold]Example[/bold]: onnxlite run recipe.toml model.onnx --data images.npy -o small.onnx

    A recipe is a TOML file. Left-out options take their defaults:

        [\[steps]]
        step = "simplify"

        [\[steps]]
        step = "prune-weights"
        sparsity = 0.3

        [\[steps]]
        step = "quantize-static"
    """
    run_steps(
        model,
        recipes.load_recipe(recipe),
        output,
        data,
        evaluation=evaluation,
        labels=labels,
        benchmark=benchmark,
        report=report,
        json=json,
        quiet=quiet,
    )


def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Keep the result and its report in this folder.",
            show_default=False,
        ),
    ] = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    """Show the whole way on a small trained model and real images that come along.

    A residual net for Fashion-MNIST is simplified, pruned and quantized to INT8; both
    models then classify 2,000 labelled test images that no step has seen.

    [bold]Example[/bold]: onnxlite demo --output demo/
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        report = demo_run.demo(output, progress=terminal)
    terminal.show("run", report, run_view(report))


def run_steps(
    model: Path,
    steps: Recipe | Sequence[Step],
    output: Path | None,
    data: Path | None,
    *,
    evaluation: Path | None = None,
    labels: NDArray[Any] | None = None,
    benchmark: bool,
    report: Sequence[Path] | None = None,
    json: bool,
    quiet: bool,
) -> None:
    """Run the steps, show the report, and exit with 3 if the model is unchanged."""
    with Terminal(json=json, quiet=quiet) as terminal:
        outcome = recipes.run(
            model,
            data,
            steps if isinstance(steps, Recipe) else Recipe(tuple(steps)),
            output=output,
            evaluation=evaluation,
            labels=labels,
            benchmark=benchmark,
            command=shlex.join(["onnxlite", *sys.argv[1:]]),
            progress=terminal,
        )
        for path in report or ():
            save_report(outcome.report, path)
    terminal.show("run", outcome.report, run_view(outcome.report))
    if not outcome.report.changed:
        raise typer.Exit(ExitCode.NOT_REACHED)
