"""The command line: arguments become a recipe, and its report is shown."""

from __future__ import annotations

from onnxlite.cli.app import app, main

__all__ = ["app", "main"]
