"""Numbers and tables as text: one place decides how they look."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from onnxlite.evaluate.metrics import PartFidelity
from onnxlite.records import Cell

_UNITS = ("B", "kB", "MB", "GB", "TB")
#: What is aligned on the right: nothing, unknown, or a number with its unit.
_NUMBER = re.compile(r"|-|\?|inf|nan|[-+]?[\d.,]+(e[-+]?\d+)?(x|%| ?[kMGT]?B| ms)?")


def size_text(nbytes: int | None) -> str:
    """Bytes in decimal units: `1.23 MB`; `-` for None."""
    if nbytes is None:
        return "-"
    power = min(max(int(math.log10(max(nbytes, 1)) // 3), 0), len(_UNITS) - 1)
    return f"{nbytes} B" if power == 0 else f"{nbytes / 1000**power:.2f} {_UNITS[power]}"


def count_text(count: int | None) -> str:
    """A number with thousands separators; `-` for None."""
    return "-" if count is None else f"{count:,}"


def ratio_text(ratio: float | None) -> str:
    """A result relative to its reference: `0.31x`; `-` for None."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def quotient_text(after: float | None, before: float | None) -> str:
    """`after / before` as a ratio, where both are known."""
    return ratio_text(after / before if after is not None and before else None)


def cell_text(cell: Cell) -> str:
    """A cell of a step's per-layer row; large integers get separators."""
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "no"
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:.4g}"
        case tuple():
            return shape_text(cell)
        case _:
            return cell


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """`1x3x224x224`; unknown dimensions are `?`."""
    if shape is None:
        return "?"
    return "x".join(str(dim) if dim is not None else "?" for dim in shape) or "scalar"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table: the first column is left-aligned, and numbers are on the right.

    Cells are literal text; the names of a model's layers may contain brackets.
    """
    rows = [tuple(row) for row in rows]
    result = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_is_number(row[index]) for row in rows)
        result.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def decibels_text(value: float | None) -> str:
    """Show an SQNR; None has no error."""
    return "inf" if value is None else f"{value:.1f}"


def cosine_text(value: float | None) -> str:
    """Show a cosine similarity, `-` where there is none."""
    return "-" if value is None else f"{value:.5f}"


def part_name(part: PartFidelity) -> str:
    """Name a part in a row below its output: slices, and the kind of values."""
    note = f" ({part.kind})" if part.kind != "values" else ""
    return f"  {part.label}{note}"


def part_decibels(part: PartFidelity) -> str:
    """Show the SQNR of a part, if the samples say anything about it."""
    return "undecided" if part.undecided else decibels_text(part.sqnr_db)
