"""HTML and SVG as text: what is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


class Markup(str):
    """Text that is markup and goes out as it is."""

    __slots__ = ()


def element(
    name: str,
    children: str | Iterable[str] = (),
    attributes: Mapping[str, str | float | None] | None = None,
) -> Markup:
    """One element; an attribute of None is left out, and so is an end tag in SVG's leaves."""
    parts = [children] if isinstance(children, str) else list(children)
    content = "".join(part if isinstance(part, Markup) else escape(part) for part in parts)
    given = "".join(
        f' {key}="{escape(_text(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{content}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Pieces one after the other, each escaped unless it is markup."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts))


def html_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    row_classes: Sequence[str | None] = (),
) -> Markup:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        columns: the heads.
        rows: the cells.
        numbers: indices of the columns that are aligned on the right.
        row_classes: a class for each row, or None.
    """
    head = element("tr", [element("th", c, _right(i in numbers)) for i, c in enumerate(columns)])
    body = [
        element(
            "tr",
            [element("td", cell, _right(i in numbers)) for i, cell in enumerate(row)],
            {"class": row_classes[index] if index < len(row_classes) else None},
        )
        for index, row in enumerate(rows)
    ]
    table = element("table", [element("thead", head), element("tbody", body)])
    return element("div", table, {"class": "scroll"})


def _right(number: bool) -> dict[str, str | float | None]:
    return {"class": "n"} if number else {}


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if value % 1 else f"{value:.0f}"
