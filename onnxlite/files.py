"""Atomic writes: the target is the old file or the whole new one, never a part.

A file is written under a temporary name beside its target, flushed to disk, and renamed. A
process that is killed leaves the target as it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as a whole; its directory must exist.

    Raises:
        OSError: the directory is missing or not writable, or the disk is full; the target is
            as it was.
    """
    with staging_directory(path) as directory:
        write_synced(directory / path.name, content)
        os.replace(directory / path.name, path)


@contextlib.contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """Make a temporary directory beside `target`; it is removed at the end.

    What is written in it can be renamed to its place in one step with `os.replace`.
    """
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}.", dir=target.parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Flush a file that is already written to disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to disk, so that a rename in it lasts."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
