"""Atomic writes: the target is the old file or the whole new one, never a part.

A file is written under a temporary name beside its target, flushed to disk, and renamed. A
process that is killed leaves the target as it was; the next write to the same target removes the
temporary directory that it left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from glob import escape
from pathlib import Path

if sys.platform != "win32":
    import fcntl

#: Part of the names of temporary directories, by which those of killed processes are found.
_MARK = "onnxlite-"


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

    What is written in it can be renamed to its place in one step with `os.replace`. Those of
    processes that were killed are removed.
    """
    prefix = f".{target.name[:32]}.{_MARK}"
    for stale in target.parent.glob(f"{escape(prefix)}*"):
        with _lock(stale, wait=False) as owned:
            if owned:
                shutil.rmtree(stale, ignore_errors=True)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        with _lock(directory):
            # Another process may have removed it before it was locked.
            if directory.is_dir():
                try:
                    yield directory
                finally:
                    shutil.rmtree(directory, ignore_errors=True)
                return


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other processes and threads out that ask for the same directory.

    The lock ends with the process, and leaves no file. Where the system has no such locks,
    nothing is kept out.
    """
    with _lock(directory):
        yield


@contextlib.contextmanager
def _lock(directory: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a directory; False if there are no locks, or another process has it."""
    if sys.platform == "win32":
        yield False
        return
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            owned = True
        except OSError:
            owned = False
        yield owned
    finally:
        os.close(handle)


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
