"""Reports of schema 1, brought into the form of today.

Version 0.1, and 0.2 before its release, had other names of fields, rows as {name, op_type, values},
and changes and resolved options as tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from onnxlite.simplify.options import SimplifyChanges

#: What JSON decodes to.
Json: TypeAlias = Any

#: Fields of version 0.1 that have another name today.
_RENAMED = {
    "declined": "skipped",
    "settled": "resolved_options",
    "looks": "final_checks",
}
#: Columns that were shapes as text, such as "8x3x3x3".
_SHAPES = ("shape", "before", "after")
#: Kinds of changes that only static quantization counts.
_STATIC = {"values_quantized", "activations_absorbed"}


def upgraded(value: Json) -> Json:
    """Return a record of schema 1 in the form of today."""
    if isinstance(value, list):
        return [upgraded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"what", "where", "reason"}:
        return {
            "what": value["what"],
            "node": value["where"],
            "code": "",
            "message": value["reason"],
        }
    if value.get("status") == "idle":  # of a trial
        value = {**value, "status": "unchanged"}
    record = {_RENAMED.get(key, key): upgraded(item) for key, item in value.items()}
    return _step_report(record) if {"step", "changed", "summary"} <= record.keys() else record


def _step_report(report: dict[str, Json]) -> dict[str, Json]:
    """A step's report with typed changes, rows and options."""
    step = report["step"]
    rows = [_row(row) for row in report.pop("layers", ())]
    changes = _changes(report.pop("changes", {}), by_rule=step == "simplify")
    parts = dict(_rows_by_type(rows))
    resolved = report.pop("resolved_options", None) or None
    if step != "quantize-auto":
        return {**report, **parts, "changes": changes, "resolved_options": resolved}
    candidates = parts.pop("candidates", [])
    winner = None
    if report["changed"]:
        kind = "quantize-static" if _STATIC & changes.keys() else "quantize-dynamic"
        winner = {"step": kind, "changed": True, "summary": "", "changes": changes, **parts}
    return {**report, "candidates": candidates, "winner": winner}


def _row(row: dict[str, Json]) -> dict[str, Json]:
    values = {
        key: _shape(value) if key in _SHAPES else value
        for key, value in row.get("values", {}).items()
    }
    return {"name": row["name"], "op_type": row["op_type"], **values}


def _shape(text: str) -> list[int] | None:
    return None if text == "none" else [int(size) for size in text.split("x") if size]


def _rows_by_type(rows: list[dict[str, Json]]) -> Iterator[tuple[str, list[dict[str, Json]]]]:
    """Yield the rows of each field that has some."""
    found: dict[str, list[dict[str, Json]]] = {}
    for row in rows:
        found.setdefault(_field(row), []).append(row)
    for row in found.get("candidates", ()):
        row["way"] = row["name"]
        row["sqnr_db"] = math.inf if row.get("sqnr_db") is None else row["sqnr_db"]
    yield from found.items()


def _field(row: Mapping[str, Json]) -> str:
    """Name of the field that holds such rows today."""
    if row["op_type"] == "candidate":
        return "candidates"
    if row["op_type"] == "smooth":
        return "smoothed_values"
    return "tables" if row.get("kernel") == "rows" else "layers"


def _changes(counts: Mapping[str, int], *, by_rule: bool) -> dict[str, Json]:
    """Counts by the names of fields; those of `simplify` by rule where it has no field."""
    fields = {kind.replace("-", "_"): count for kind, count in counts.items()}
    if not by_rule:
        return fields
    known = set(SimplifyChanges.__struct_fields__)
    rewrites = {k: n for k, n in counts.items() if k.replace("-", "_") not in known}
    return {**{k: n for k, n in fields.items() if k in known}, "rewrites": rewrites}
