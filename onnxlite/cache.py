"""Measurements kept between processes: one small JSON file each, replaced as a whole."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$ONNXLITE_CACHE`, else `~/.cache/onnxlite`; it need not exist."""
    given = os.environ.get("ONNXLITE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "onnxlite"


def read_numbers(path: Path) -> dict[str, float]:
    """The numbers in a file; none if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep_numbers(path: Path, numbers: Mapping[str, float]) -> None:
    """Add numbers to a file; where that cannot be, they are not kept, which is logged."""
    merged = {**read_numbers(path), **numbers}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(merged, file, indent=0)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.info("measurements are not kept: %s", error)
