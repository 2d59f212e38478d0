"""Command-line options from option records, and the arguments that commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

import numpy as np
import typer
from numpy.typing import NDArray
from rich.markup import escape

from onnxlite.errors import OptionError
from onnxlite.options import Field, Options, arms_of, choices_of, fields_of, from_text
from onnxlite.step import StepContext
from onnxlite.task_metrics import MetricName

OptionsT = TypeVar("OptionsT", bound=Options)

#: Placeholders by the ends of names, and for names that say more than their type.
_METAVARS = {"_s": "SECONDS", "_ms": "MS", "_db": "DB", "_bytes": "SIZE"}
_PATTERNS = ("include", "exclude", "int16")
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}

ModelPath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="The ONNX model; it stays as it is.", show_default=False),
]
ReferencePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="REFERENCE", help="The original ONNX model.", show_default=False),
]
CandidatePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="CANDIDATE", help="The model made from it.", show_default=False),
]
RecipePath: TypeAlias = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.", show_default=False),
]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where to write the result. Without it the result is measured and shown only.",
        show_default=False,
    ),
]
Data: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        metavar="FILE|FOLDER",
        help="Real inputs, without labels: .npy (a model with one input), .npz (one array per "
        "input name), or a folder of them. The batch axis of each input counts samples.",
        show_default=False,
    ),
]
Evaluation: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--evaluation",
        "-e",
        metavar="FILE|FOLDER",
        help="Separate inputs to measure fidelity on. Without it the last quarter of --data "
        "is held out for that.",
        show_default=False,
    ),
]
SimplifyFirst: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--simplify/--no-simplify", help="Simplify first, so that more layers can be changed."
    ),
]
Benchmark: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--benchmark/--no-benchmark",
        help="Measure the latency of the result against the model.",
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, metavar="COUNT", help="Threads of the steps; default: all cores."),
]
Reports: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the report here: .html, one page without network, or .json. Repeatable.",
        show_default=False,
    ),
]
_CONTEXT = {field.name: field for field in fields_of(StepContext)}
BatchAxis: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-axis",
        metavar="AXIS|INPUT=AXIS",
        help=escape(_CONTEXT["batch_axis"].description),
        show_default=False,
    ),
]
FloorDb: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--floor-db",
        min=0,
        metavar="DB",
        help=_CONTEXT["floor_db"].description,
        show_default=False,
    ),
]
Force: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--force", help="Write the result even if it is not usable; the exit code stays 3."
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option("--json", help="Write the full report as JSON to stdout, instead of tables."),
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show errors only (and JSON, if asked for)."),
]


def batch_axis(items: list[str] | None) -> int | dict[str, int | None] | None:
    """Read `--batch-axis`: `1`, or `state=1` and `edges=none`, once for each input."""
    return _table(_CONTEXT["batch_axis"], items) if items else None


def _read_labels(path: str) -> NDArray[Any]:
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise typer.BadParameter(f"cannot read labels from {path!r}: {error}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise typer.BadParameter(f"{path!r} does not hold one whole number per sample")
    return labels


Labels: TypeAlias = Annotated[
    Any,
    typer.Option(
        "--labels",
        "-l",
        metavar="FILE",
        parser=_read_labels,
        help="Class of each evaluation sample, a .npy file of whole numbers: shows accuracy.",
        show_default=False,
    ),
]


TaskMetric: TypeAlias = Annotated[
    MetricName | None,
    typer.Option(
        "--metric",
        help="Task metric; by default the one that fits the outputs, and the report says why.",
        show_default=False,
    ),
]


def _read_fraction(text: str) -> float:
    return float(from_text("max_drop", text, float))


MaxDrop: TypeAlias = Annotated[
    Any,
    typer.Option(
        "--max-drop",
        metavar="FRACTION",
        parser=_read_fraction,
        help="Exit with 3 if the task metric loses more, for example 1%.",
        show_default=False,
    ),
]


def with_options(
    record: type[Options], *, leave_out: Collection[str] = (), hide: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a record, in place of its parameter `options`.

    Args:
        record: the options; an option `min_sqnr_db` becomes `--min-sqnr-db`.
        leave_out: fields that are no options of the command.
        hide: parameters of the function that are none either; they keep their defaults.
    """
    fields = [field for field in fields_of(record) if field.name not in leave_out]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in signature.parameters.values()
            if p.name not in hide
        ]

        def command(**given: Any) -> None:
            texts = {field.name: given.pop(field.name) for field in fields}
            function(**given, options=record_from(record, texts))

        before = [p for p in own if p.name in _LEADING]
        after = [p for p in own if p.name not in _LEADING and p.name != "options"]
        parameters = [*before, *map(_parameter, fields), *after]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = function.__doc__
        return command

    return decorate


#: What commands show before the options of their record.
_LEADING = (
    *("model", "reference", "candidate", "recipe", "output"),
    *("data", "batch_axis", "evaluation", "labels"),
)


def record_from(record: type[OptionsT], texts: Mapping[str, Any]) -> OptionsT:
    """Make a record from what the command line gave; what it left out takes its default.

    Raises:
        OptionError: a value does not fit; the message names the flag.
    """
    values = {}
    for field in fields_of(record):
        given = texts.get(field.name)
        if given is not None and given != []:
            values[field.name] = _value(field, given)
    return record(**values)


def _value(field: Field, given: Any) -> Any:
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        text = str(_size(given)) if field.name.endswith("_bytes") else given
        return from_text(field.name, text, field.kind)
    if _is_table(field.kind):
        return _table(field, given)
    return tuple(given)


def _table(field: Field, items: Iterable[str]) -> Any:
    """The entries of `NAME=VALUE`; a lone value is that itself, where the type has such."""
    items = list(items)
    if len(items) == 1 and "=" not in items[0]:
        return from_text(field.name, items[0], field.kind)
    (table,) = (arm for arm in arms_of(field.kind) if get_origin(arm) is dict)
    pairs = [item.rpartition("=") for item in items]
    if any(not name for name, _, _ in pairs):
        raise OptionError(f"{field.name}={items}: give NAME=VALUE, once for each name")
    kind = get_args(table)[1]
    return {name: from_text(field.name, value, kind) for name, _, value in pairs}


def _size(text: str) -> int:
    """Read bytes: `500000`, `500kB` or `0.5MB`."""
    number = text.rstrip("bBkKmMgG ")
    unit = text[len(number) :].strip().lower()
    try:
        return int(float(number) * _BYTES[unit])
    except (ValueError, KeyError, OverflowError):
        raise OptionError(f"{text!r} is no size: write 500000, 500kB or 0.5MB") from None


def _parameter(field: Field) -> inspect.Parameter:
    """A parameter that typer makes an option of."""
    flag = f"--{field.name.replace('_', '-')}"
    help_text = escape(re.sub(r'[`"]', "", field.description))
    arms = arms_of(field.kind)
    default: Any = None
    kind: Any
    if arms == (bool,):
        kind, default = bool, field.default
        declared = [f"{flag}/--no-{flag[2:]}" if field.default else flag]
        option = typer.Option(*declared, help=help_text)
    elif _is_table(field.kind) or any(get_origin(arm) is tuple for arm in arms):
        kind = list[str] | None
        option = typer.Option(flag, metavar=_metavar(field), help=help_text, show_default=False)
    else:
        kind = str | None
        shown = field.default is not None
        default = _text(field.default) if shown else None
        option = typer.Option(flag, metavar=_metavar(field), help=help_text, show_default=shown)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


def _metavar(field: Field) -> str:
    """The placeholder of an option's value in the help."""
    for end, metavar in _METAVARS.items():
        if field.name.endswith(end):
            return metavar
    if field.name in _PATTERNS:
        return "PATTERN"
    parts = ["|".join(_text(choice) for choice in choices_of(field.kind))]
    words = {int: "COUNT", float: "NUMBER", str: "TEXT", Path: "FILE"}
    parts += [words[arm] for arm in arms_of(field.kind) if arm in words]
    if _is_table(field.kind):
        parts.append("NAME=VALUE")
    return "|".join(part for part in parts if part)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_table(kind: Any) -> bool:
    return any(get_origin(arm) is dict for arm in arms_of(kind))
