"""Reports as files: JSON, which can be read again, and HTML made from it.

    {"schema": 2, "kind": "run", "record": {...}}

JSON has no infinity (the SQNR of equal outputs is one) and no NaN: they are written as
the texts "inf", "-inf" and "nan", and read back as numbers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from onnxlite.errors import OptionError, SaveError
from onnxlite.files import write_atomically
from onnxlite.recipe import RunReport
from onnxlite.report.page import html_page
from onnxlite.report.upgrade import upgraded
from onnxlite.search import OptimizeReport

#: Raised when a reader of older documents would misread a new one.
SCHEMA = 2

RecordT = TypeVar("RecordT", bound=msgspec.Struct)


def to_json(kind: str, record: msgspec.Struct) -> str:
    """One JSON document; `kind` says which record it holds: `"run"`, `"summary"`, ..."""
    document = {"schema": SCHEMA, "kind": kind, "record": _finite(msgspec.to_builtins(record))}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def from_json(text: str | bytes, kind: str, record_type: type[RecordT]) -> RecordT:
    """Read what `to_json` wrote.

    Raises:
        OptionError: not such a document, another kind, or a newer schema.
    """
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise OptionError(f"the report is not a JSON document: {error}") from error
    schema, record = document.get("schema"), document.get("record")
    if schema not in (1, SCHEMA) or document.get("kind") != kind:
        raise OptionError(
            f"the document has schema {schema!r} and kind {document.get('kind')!r}; expected "
            f"were 1 or {SCHEMA} and {kind!r}"
        )
    try:
        current = upgraded(record) if schema == 1 else record
        return msgspec.convert(current, record_type, strict=False)
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise OptionError(f"the {kind!r} document is damaged: {error}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_SUFFIXES = (".json", ".html")


def report_kind(report: RunReport) -> str:
    """Kind of a report, as its JSON document names it."""
    return "optimize" if isinstance(report, OptimizeReport) else "run"


def save_report(report: RunReport, path: str | os.PathLike[str]) -> Path:
    """Write a report, as JSON (`.json`) or as one HTML page that needs no network (`.html`).

    Raises:
        OptionError: another suffix.
        SaveError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix not in _SUFFIXES:
        raise OptionError(f"{str(target)!r}: a report is written to .json or to .html")
    text = html_page(report) if target.suffix == ".html" else to_json(report_kind(report), report)
    write_text(target, text)
    return target


def write_text(path: Path, text: str) -> None:
    """Write a text file; raises `SaveError` where that fails."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise SaveError(f"cannot write {str(path)!r}: {error.strerror}") from error


def load_report(path: str | os.PathLike[str]) -> RunReport:
    """Read a report that was saved as JSON; an `OptimizeReport` comes back as one.

    Raises:
        OptionError: the file cannot be read, or holds no such report.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    try:
        kind = msgspec.json.decode(text, type=_Kind).kind
    except msgspec.MsgspecError as error:
        raise OptionError(f"{os.fspath(path)!r} is not a report as JSON: {error}") from error
    if kind == "optimize":
        return from_json(text, kind, OptimizeReport)
    return from_json(text, "run", RunReport)


class _Kind(msgspec.Struct):
    kind: str = ""
