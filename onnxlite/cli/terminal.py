"""Output of a command: tables or JSON on stdout, progress and log messages on stderr."""

from __future__ import annotations

import logging
import os
import sys
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from onnxlite.report import to_json

#: Without a terminal there is no width to fit, and narrow tables would lose text.
_PIPE_WIDTH = 120


class Terminal:
    """A command's output; within its context progress is drawn and warnings are shown.

    The object itself is the progress callback of onnxlite's functions.
    """

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self._json, self._quiet = json, quiet
        self._errors = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=self._errors,
            transient=True,
            disable=quiet or not self._errors.is_terminal,
        )
        self._task = self._bar.add_task("", visible=False)
        self._handler = _Messages(self._errors, logging.ERROR if quiet else logging.WARNING)

    def __enter__(self) -> Self:
        logging.getLogger("onnxlite").addHandler(self._handler)
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        logging.getLogger("onnxlite").removeHandler(self._handler)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Draw the progress of the present stage; a total of 0 is an unknown one."""
        self._bar.update(
            self._task, description=stage, completed=done, total=total or None, visible=True
        )

    def show(self, kind: str, record: msgspec.Struct, *views: RenderableType) -> None:
        """Print a record: as JSON if that was asked for, otherwise its views."""
        if self._json:
            sys.stdout.write(to_json(kind, record) + "\n")
        elif not self._quiet:
            width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
            console = Console(width=width, highlight=False)
            for view in views:
                console.print(view)

    def say(self, message: str) -> None:
        """Print one line on stderr."""
        if not self._quiet:
            self._errors.print(message, markup=False, soft_wrap=True)


class _Messages(logging.Handler):
    """Log records as lines on stderr; what the report says itself is left to it."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console
        self.addFilter(lambda record: not record.name.startswith("onnxlite.recipe"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        self._console.print(line, markup=False, soft_wrap=True)
