"""Commands that make a model from a model: one for each step, `run` and `demo`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from onnxlite import demo as demo_run
from onnxlite import recipe as recipes
from onnxlite.cli import options as args
from onnxlite.cli.app import ExitCode
from onnxlite.cli.terminal import Terminal
from onnxlite.recipe import (
    PruneChannels,
    PruneWeights,
    QuantizeAuto,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeWeights,
    Repair,
    Simplify,
    SparseStorage,
    ToFloat16,
    Tune,
)
from onnxlite.report import run_view, save_report
from onnxlite.step import Step


class _Command(NamedTuple):
    """Differences of one step's command from those of the others.

    Attributes:
        step: the record whose fields are the options.
        text: what the help says below its first line.
        example: arguments of a typical call.
        simplify: the default of --simplify; None for a command without it.
        benchmark: the default of --benchmark.
    """

    step: type[Step]
    text: str
    example: str
    simplify: bool | None = True
    benchmark: bool = True


_STEPS = (
    _Command(
        Simplify,
        "The result is compared with the model on --data, or on generated inputs.",
        "model.onnx -o simple.onnx",
        simplify=None,
    ),
    _Command(
        PruneWeights,
        'The file then compresses better (see "zipped"); on CPU it does not run faster.',
        "model.onnx --sparsity 0.5 -o pruned.onnx --data x.npy",
        simplify=None,
        benchmark=False,
    ),
    _Command(
        PruneChannels,
        "Give one of --macs, --params, --latency, --remove and --widths, and --data: a few "
        "hundred unlabelled inputs, by which channels are chosen and what remains is repaired. "
        "[bold]onnxlite channels[/bold] shows what may go.",
        "model.onnx --macs 0.5 --data x.npy -o small.onnx",
    ),
    _Command(
        SparseStorage,
        "Weights get smaller above 67% of zeros. ONNX Runtime makes them dense at load, so "
        "nothing else changes.",
        "pruned.onnx -o sparse.onnx",
        simplify=None,
        benchmark=False,
    ),
    _Command(
        QuantizeStatic,
        "Some hundred samples from the model's everyday work are enough; labels are not needed.",
        "model.onnx --data images.npy -o int8.onnx",
    ),
    _Command(
        QuantizeDynamic,
        "For transformers and recurrent nets. It needs no data; --data shows the sizes of input "
        "for which kernels are chosen, outliers, and what the result is compared on.",
        "model.onnx --data tokens.npz -o int8.onnx",
    ),
    _Command(
        QuantizeAuto,
        "Both are made and compared with the model on data that neither was calibrated on. The "
        "model stays as it is where neither is faster and exact enough.",
        "model.onnx --data tokens.npz -o int8.onnx",
    ),
    _Command(
        QuantizeWeights,
        "The file shrinks; the model runs in float and just as fast, because ONNX Runtime "
        "decodes the weights once when it loads them. With --data, a few hundred unlabelled "
        "inputs, weights are fitted to them: 4 bits and less need that.",
        "model.onnx --bits 4 -o small.onnx --data x.npy",
        benchmark=False,
    ),
    _Command(
        ToFloat16,
        "On CPU it is not faster: ONNX Runtime casts most operators back to float32. With --data "
        "what leaves the range of float16 is found and stays float32.",
        "model.onnx --data x.npy -o half.onnx",
    ),
    _Command(
        Repair,
        "No labels and no training: least squares, layer by layer. The report compares the "
        "result with REFERENCE.",
        "model.onnx small.onnx --data images.npy -o better.onnx",
        simplify=None,
    ),
    _Command(
        Tune,
        "Layers, types and kernels stay; weights, biases and scales are learned, without labels. "
        "The report compares the result with REFERENCE. It needs torch: pip install "
        "'onnxlite\\[tune]'.",
        "model.onnx small.onnx --data images.npy -o better.onnx",
        simplify=None,
    ),
)


def _command(entry: _Command, name: str) -> Callable[..., None]:
    """The function of a step's command, which typer reads the options from."""

    def of_one(
        model: args.ModelPath,
        options: Step,
        output: args.Output = None,
        data: args.Data = None,
        batch_axis: args.BatchAxis = None,
        evaluation: args.Evaluation = None,
        labels: args.Labels = None,
        metric: args.TaskMetric = None,
        simplify: args.SimplifyFirst = bool(entry.simplify),
        threads: args.Threads = None,
        benchmark: args.Benchmark = entry.benchmark,
        floor_db: args.FloorDb = None,
        force: args.Force = False,
        report: args.Reports = None,
        json: args.Json = False,
        quiet: args.Quiet = False,
    ) -> None:
        _run(
            model,
            [Simplify(), options] if simplify else [options],
            output=output,
            require_last=True,
            benchmark=benchmark,
            show=_Shown(report, json, quiet),
            samples=data,
            batch_axis=args.batch_axis(batch_axis),
            evaluation=evaluation,
            labels=labels,
            metric=metric,
            threads=threads,
            floor_db=floor_db,
            force=force,
        )

    def of_two(
        reference: args.ReferencePath,
        candidate: args.CandidatePath,
        options: Step,
        output: args.Output = None,
        data: args.Data = None,
        batch_axis: args.BatchAxis = None,
        evaluation: args.Evaluation = None,
        labels: args.Labels = None,
        metric: args.TaskMetric = None,
        threads: args.Threads = None,
        benchmark: args.Benchmark = entry.benchmark,
        floor_db: args.FloorDb = None,
        force: args.Force = False,
        report: args.Reports = None,
        json: args.Json = False,
        quiet: args.Quiet = False,
    ) -> None:
        step = msgspec.structs.replace(options, candidate=candidate)
        of_one(
            reference, step, output, data, batch_axis, evaluation, labels, metric, False, threads,
            benchmark, floor_db, force, report, json, quiet,
        )  # fmt: skip

    pair = "candidate" in entry.step.__struct_fields__
    function: Callable[..., None] = of_two if pair else of_one
    function.__doc__ = f"{entry.text}\n\n[bold]Example[/bold]: onnxlite {name} {entry.example}"
    hidden = [] if entry.simplify is not None else ["simplify"]
    return args.with_options(entry.step, leave_out=["candidate"], hide=hidden)(function)


def run(
    model: args.ModelPath,
    recipe: args.RecipePath,
    output: args.Output = None,
    data: args.Data = None,
    batch_axis: args.BatchAxis = None,
    evaluation: args.Evaluation = None,
    labels: args.Labels = None,
    metric: args.TaskMetric = None,
    threads: args.Threads = None,
    benchmark: args.Benchmark = True,
    floor_db: args.FloorDb = None,
    force: args.Force = False,
    report: args.Reports = None,
    json: args.Json = False,
    quiet: args.Quiet = False,
) -> None:
    r"""A recipe is a TOML file; left-out options take their defaults.

        [\[steps]]
        step = "simplify"

        [\[steps]]
        step = "prune-weights"
        sparsity = 0.3

        [\[steps]]
        step = "quantize-static"

    [bold]Example[/bold]: onnxlite run model.onnx recipe.toml --data images.npy -o small.onnx
    """
    _run(
        model,
        recipes.load_recipe(recipe),
        output=output,
        benchmark=benchmark,
        show=_Shown(report, json, quiet),
        samples=data,
        batch_axis=args.batch_axis(batch_axis),
        evaluation=evaluation,
        labels=labels,
        metric=metric,
        threads=threads,
        floor_db=floor_db,
        force=force,
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
    """A residual net for Fashion-MNIST is simplified, pruned and quantized to INT8; both
    models then classify 2,000 labelled test images that no step has seen.

    [bold]Example[/bold]: onnxlite demo --output demo/
    """
    with Terminal(json=json, quiet=quiet) as terminal:
        report = demo_run.demo(output, progress=terminal)
    terminal.show("run", report, run_view(report))


class _Shown(NamedTuple):
    """Destinations of a report."""

    files: Sequence[Path] | None
    json: bool
    quiet: bool


def _run(model: Path, recipe: recipes.RecipeLike, *, show: _Shown, **options: Any) -> None:
    """Run the steps, show the report, and exit with 3 if the model is unchanged or useless."""
    with Terminal(json=show.json, quiet=show.quiet) as terminal:
        _, report = recipes.run(model, recipe, progress=terminal, **options)
        report = msgspec.structs.replace(report, command=shlex.join(["onnxlite", *sys.argv[1:]]))
        for path in show.files or ():
            save_report(report, path)
    terminal.show("run", report, run_view(report))
    if not (report.changed and report.usable):
        raise typer.Exit(ExitCode.NOT_REACHED)


COMMANDS: Mapping[str, Callable[..., None]] = {
    **{entry.step.name(): _command(entry, entry.step.name()) for entry in _STEPS},
    "run": run,
    "demo": demo,
}
COMMANDS = {
    **COMMANDS,
    "quantize": COMMANDS["quantize-static"],
    "prune": COMMANDS["prune-weights"],
}
