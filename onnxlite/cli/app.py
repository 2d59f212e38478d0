"""The `onnxlite` command: its list of commands, and how errors become exit codes.

A command's module is loaded when the command is called, so that `onnxlite --help` needs no
package but typer and rich.
"""

from __future__ import annotations

import errno
import importlib
import traceback
from enum import IntEnum
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from onnxlite.errors import OnnxliteError, OptionError, VerificationError


class ExitCode(IntEnum):
    """Exit codes of the process, documented at the end of `onnxlite --help`.

    `NOT_REACHED`: nothing broke, but the command's step changed nothing (even where `simplify`
    before it did), a limit was missed, or a step's result failed its check or is not usable.
    Output is written with `OK` only, and with `--force`.
    """

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_REACHED = 3
    INTERRUPTED = 130


class _Entry(NamedTuple):
    """A command before it is loaded: its module in `onnxlite.cli`, its first line of help."""

    module: str
    help: str
    hidden: bool = False


#: Every command in the order of the help. A module has a function or a table for each name.
_ENTRIES = {
    "inspect": _Entry(
        "measure", "Show what a model is: inputs, outputs, operators, parameters, MACs, bytes."
    ),
    "channels": _Entry(
        "measure", "Show which channels can be removed together, and why others must stay."
    ),
    "simplify": _Entry(
        "steps", "Fold, fuse and clean up the graph without changing what it computes."
    ),
    "prune-weights": _Entry(
        "steps", "Set weights to zero; with --data those that the others can replace."
    ),
    "prune-channels": _Entry("steps", "Remove channels, so that layers become smaller and faster."),
    "sparse-storage": _Entry(
        "steps", "Store weights without their zeros, where that makes the file smaller."
    ),
    "quantize-static": _Entry(
        "steps", "Convert weights and activations to INT8, with scales found on real inputs."
    ),
    "quantize-dynamic": _Entry(
        "steps", "Convert weights to INT8, and find scales of activations in each run."
    ),
    "quantize-auto": _Entry(
        "steps", "Convert to INT8 with calibrated or dynamic scales, whichever measures better."
    ),
    "quantize-weights": _Entry(
        "steps", "Store weights in 8, 6, 5, 4, 3 or 2 bits, ternary or binary."
    ),
    "to-float16": _Entry("steps", "Halve the file: weights, and with it activations, in 16 bits."),
    "repair": _Entry("steps", "Fit the layers of a compressed model to those of its original."),
    "tune": _Entry("steps", "Train a compressed model to compute what its original does."),
    "sensitivity": _Entry(
        "measure", "Show how much fidelity each layer costs in INT8 and how much time it saves."
    ),
    "compare": _Entry("measure", "Measure how well one model reproduces the outputs of another."),
    "benchmark": _Entry("measure", "Measure the latency of two models in interleaved pairs."),
    "run": _Entry("steps", "Apply the steps of a recipe, check each, and measure the result."),
    "optimize": _Entry(
        "search", "Find the smallest and fastest form of a model within a budget, and prove it."
    ),
    "report": _Entry("measure", "Show the report of optimize or run again, or make a page of it."),
    "cache": _Entry("measure", "Show or clear what is kept between runs: times and trials."),
    "demo": _Entry(
        "steps", "Compress a small trained model with real images that come with the package."
    ),
    # Former names, for one release.
    "quantize": _Entry("steps", "Former name of quantize-static.", hidden=True),
    "prune": _Entry("steps", "Former name of prune-weights.", hidden=True),
}

_EPILOG = (
    "[bold]Data[/bold]: --data takes a .npy file (a model with one input), a .npz file (one array "
    "per input name), or a folder of them. The first axis counts samples.\n\n"
    "[bold]Exit codes[/bold]: 0: done. 1: the model, the data or the output path is at fault. "
    "2: wrong option, argument or recipe. 3: not reached; the command's step changed nothing, a "
    "limit such as --min-sqnr-db was missed, or a step's result failed its check or is not usable. "
    "130: interrupted. Output is written with 0, and with --force."
)


class _Commands(TyperGroup):
    """Loads a command when it is called; an expected error is one line and an exit code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._listing = False
        for name, entry in _ENTRIES.items():
            self.add_command(TyperCommand(name, help=entry.help, hidden=entry.hidden), name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help from the table alone."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command with all its options."""
        command = super().get_command(ctx, cmd_name)
        if command is None or self._listing:
            return command
        return _loaded(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise self._exit("interrupted, nothing was written", ExitCode.INTERRUPTED) from None
        except OptionError as error:
            raise self._exit(str(error), ExitCode.USAGE, ctx) from None
        except VerificationError as error:
            raise self._exit(str(error), ExitCode.NOT_REACHED, ctx) from None
        except OnnxliteError as error:
            raise self._exit(str(error), ExitCode.ERROR, ctx) from None
        except MemoryError:
            text = "out of memory: close other programs, or give fewer samples per batch"
            raise self._exit(text, ExitCode.ERROR, ctx) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise self._exit(str(error), ExitCode.ERROR, ctx) from None

    @staticmethod
    def _exit(message: str, code: ExitCode, ctx: Any = None) -> typer.Exit:
        if ctx is not None and ctx.params.get("debug"):
            traceback.print_exc()
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print("error:", style="bold red", end=" ")
        console.print(" ".join(message.split()), markup=False)
        return typer.Exit(code)


def _loaded(name: str) -> Any:
    """The command made from its function, with the first line of its help from the table."""
    entry = _ENTRIES[name]
    module = importlib.import_module(f"onnxlite.cli.{entry.module}")
    function = module.COMMANDS[name]
    single = typer.Typer(
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT,
        add_completion=False,
    )
    text = f"{entry.help}\n\n{function.__doc__ or ''}"
    single.command(name, help=text)(function)
    return typer.main.get_command(single)


_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="onnxlite",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT,
    epilog=_EPILOG,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from onnxlite import __version__

        print(f"onnxlite {__version__}")
        raise typer.Exit(ExitCode.OK)


@app.callback()
def _onnxlite(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the stack trace of an error.")
    ] = False,
) -> None:
    """Make an exported ONNX model smaller and faster on CPU, and prove it.

    Start with [bold]onnxlite demo[/bold], then [bold]onnxlite inspect model.onnx[/bold].
    """


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="onnxlite")
