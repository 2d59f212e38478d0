"""What trials made and measured, kept between processes under the hash of what went in.

A step's result depends on the model it got, the step's options, the samples and the code;
the hash of these four is its name. So a search that was interrupted finds everything that
was finished, and a changed option, sample or version finds nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec

from onnxlite.analysis.lineage import Origin
from onnxlite.records import StepReport

logger = logging.getLogger(__name__)


RecordT = TypeVar("RecordT", bound=msgspec.Struct)

#: The oldest entries go when the folder holds more than this.
_LIMIT_BYTES = 4 << 30
_PACKAGES = ("onnxruntime", "onnx", "onnx-ir", "onnxsim", "numpy", "torch")


class CachedStep(msgspec.Struct, frozen=True, kw_only=True):
    """What one step made of one model.

    Attributes:
        digest: hash of the model it made.
        report: what the step says; None if it failed.
        lineage: which layers of the original its layers are.
        failure: the error, where the step raised one.
    """

    digest: str
    report: StepReport | None = None
    lineage: dict[str, Origin] = {}
    failure: str | None = None


class Store:
    """A folder of records and models by key; without a folder they are kept in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, bytes] = {}
        #: How many look-ups found something, for the report.
        self.found = 0

    def record(self, key: str, kind: type[RecordT]) -> RecordT | None:
        """The record of a key; None if there is none, or it is damaged."""
        content = self._read(f"{key}.record")
        if content is None:
            return None
        try:
            record = msgspec.msgpack.decode(content, type=kind)
        except msgspec.MsgspecError:
            return None
        self.found += 1
        return record

    def keep(self, key: str, record: msgspec.Struct) -> None:
        """Keep a record under a key."""
        self._write(f"{key}.record", msgspec.msgpack.encode(record))

    def model(self, digest: str) -> bytes | None:
        """The serialised model with this hash, if it is here and whole."""
        content = self._read(f"{digest}.onnx")
        return content if content is not None and hashed(content) == digest else None

    def keep_model(self, content: bytes) -> str:
        """Keep a serialised model; returns its hash."""
        digest = hashed(content)
        self._write(f"{digest}.onnx", content)
        return digest

    def _read(self, name: str) -> bytes | None:
        if name in self._memory:
            return self._memory[name]
        if self._folder is None:
            return None
        path = self._folder / name
        try:
            content = path.read_bytes()
            os.utime(path)  # the time of use decides what goes first
        except OSError:
            return None
        return content

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is None:
            self._memory[name] = content
            return
        try:
            _replace(self._folder / name, content)
        except OSError as error:
            logger.info("kept in memory only: %s", error)
            self._memory[name] = content

    def trim(self, limit: int = _LIMIT_BYTES) -> None:
        """Remove what was used longest ago, down to `limit` bytes."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            entries = sorted(_entries(self._folder), reverse=True)
            total = 0
            for _, size, path in entries:
                total += size
                if total > limit:
                    path.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.iterdir():
        if path.suffix in (".onnx", ".record"):
            stat = path.stat()
            yield stat.st_mtime, stat.st_size, path


def _replace(path: Path, content: bytes) -> None:
    """Write a file as a whole: a reader, or a process that was killed, never leaves a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:16]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def hashed(content: bytes) -> str:
    """The name of some bytes."""
    return sha256(content).hexdigest()


def key_of(*parts: str) -> str:
    """The name of what follows from these parts."""
    return sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def code_digest() -> str:
    """A hash of what results depend on besides their inputs: this code, and its packages."""
    root = Path(__file__).parent.parent
    total = sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("cli", "report", "search"):
            total.update(path.read_bytes())
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            total.update(f"{name} {importlib.metadata.version(name)}".encode())
    return total.hexdigest()
