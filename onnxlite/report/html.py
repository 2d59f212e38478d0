"""HTML and SVG as text: elements, tables and the style sheet; what is not markup is escaped."""

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


STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --panel: #ffffff; --text: #1c1f23; --soft: #5b636d; --rule: #dfe2e6;
  --before: #a3acb8; --after: #1f6feb; --good: #1a7f37; --bad: #b42318; --warn: #9a6700;
  --mark: #eaf2ff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1c2025; --text: #e6e8eb; --soft: #9aa4b0; --rule: #333a43;
    --before: #66707d; --after: #58a6ff; --good: #3fb950; --bad: #ff7b72; --warn: #d29922;
    --mark: #1b2a40;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1160px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
p { margin: 6px 0; max-width: 78ch; overflow-wrap: anywhere; }
.soft, .note { color: var(--soft); }
.note { font-size: 13px; }
.verdict { font-size: 16px; padding: 10px 14px; border-left: 4px solid var(--good);
  background: var(--panel); border-radius: 0 6px 6px 0; margin: 14px 0; max-width: none; }
.verdict.no { border-color: var(--bad); }
.warning { color: var(--warn); }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); }
.card { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; min-width: 0; }
.card .name { color: var(--soft); font-size: 13px; }
.card .big { font-size: 26px; font-weight: 650; line-height: 1.25; }
.card .from { font-size: 13px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.card .track { height: 6px; border-radius: 3px; background: var(--rule); margin: 8px 0 6px;
  overflow: hidden; }
.card .fill { height: 100%; background: var(--after); border-radius: 3px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.panel { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; }
.scroll { overflow-x: auto; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.chosen td { background: var(--mark); }
.bars { min-width: 110px; }
.bars svg { display: block; width: 110px; height: 16px; }
.bars span { font-size: 12px; color: var(--soft); white-space: nowrap; }
svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
.plot { width: 100%; height: auto; display: block; }
.plot.narrow { display: none; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; overflow-x: auto; font-size: 13px; margin: 8px 0; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); }
@media (max-width: 640px) {
  main { padding: 16px 12px 32px; }
  h1 { font-size: 20px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 8px; }
  .card { padding: 10px; } .card .big { font-size: 21px; }
  table { width: max-content; min-width: 100%; } td { max-width: 240px; }
  .plot { display: none; } .plot.narrow { display: block; }
}
@media print { .scroll { overflow: visible; } }
""".strip()
