"""The `onnxlite` command: its groups of commands, and how errors become exit codes."""

from __future__ import annotations

import errno
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from onnxlite import __version__
from onnxlite.cli import dynamic, formats, lowbits, measure, optimize, search, tuning
from onnxlite.cli.exit_codes import ExitCode
from onnxlite.cli.report import report
from onnxlite.cli.sensitivity import sensitivity
from onnxlite.errors import OnnxliteError, OptionError, VerificationError

_EPILOG = (
    "[bold]Data[/bold]: --data takes a .npy file (a model with one input), a .npz file (one array "
    "per input name), or a folder of them. The first axis counts samples.\n\n"
    "[bold]Exit codes[/bold]: 0: done. 1: the model, the data or the output path is at fault. "
    "2: wrong option, argument or recipe. 3: not reached; the model is unchanged, a limit such as "
    "--min-sqnr was missed, or a step's result failed its check. 130: interrupted. "
    "Output is written with 0 only."
)


class _Commands(TyperGroup):
    """Runs a command; an expected error is one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
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


app = typer.Typer(
    name="onnxlite",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _show_version(wanted: bool) -> None:
    if wanted:
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


app.command("inspect")(measure.inspect)
app.command("channels")(measure.channels)
app.command("simplify")(optimize.simplify)
app.command("prune")(optimize.prune)
app.command("prune-channels")(optimize.prune_channels)
app.command("quantize")(optimize.quantize)
app.command("quantize-auto")(dynamic.quantize_auto)
app.command("quantize-dynamic")(dynamic.quantize_dynamic)
app.command("quantize-weights")(lowbits.quantize_weights)
app.command("sparse-storage")(formats.sparse_storage)
app.command("to-float16")(formats.to_float16)
app.command("tune")(tuning.tune)
app.command("sensitivity")(sensitivity)
app.command("compare")(measure.compare)
app.command("benchmark")(measure.benchmark)
app.command("run")(optimize.run)
app.command("optimize")(search.optimize)
app.command("report")(report)
app.command("demo")(optimize.demo)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="onnxlite")
