"""What every benchmark does with its rows: a table on the terminal and a JSON file."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from onnxlite.evaluate import machine

RESULTS = Path(__file__).parent / "results"


def publish(
    name: str, rows: Sequence[Mapping[str, Any]], *, title: str, notes: Sequence[str] = ()
) -> Path:
    """Print `rows` as a table and write them to `benchmarks/results/<name>.json`.

    The file also holds the machine, the day and the command line. Units belong into the
    rows' keys (`latency_ms`, `size_bytes`).

    Returns:
        The path of the JSON file.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=title, title_justify="left")
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(str(machine()), *notes, sep="\n", style="dim", highlight=False)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "title": title,
        "command": _command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": msgspec.to_builtins(machine()),
        "notes": list(notes),
        "rows": [dict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def kept_rows(name: str, *columns: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of an earlier run by some of their columns, for a run that adds to them."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {tuple(row[column] for column in columns): row for row in rows}


def _command() -> str:
    """How the benchmark was started, without this machine's paths."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
