"""Reports as files: JSON, which can be read again, and HTML made from it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from onnxlite.errors import OptionError, SaveError
from onnxlite.files import write_atomically
from onnxlite.recipe import RunReport
from onnxlite.report.json_form import from_json, to_json
from onnxlite.report.page import html_page
from onnxlite.search import OptimizeReport

_SUFFIXES = (".json", ".html")


def report_kind(report: RunReport) -> str:
    """What a report's JSON document says it holds."""
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
