"""Cache of results between processes: one folder of bounded size.

A record is found by its `CacheKey`, which names everything that it depends on: the inputs by
name, and the code that computes it. So an interrupted search finds what was finished, and a
changed option, sample or version finds nothing. A measurement that was taken while other work
kept the machine busy is marked; it is used only as long as the machine stays busy, and taken
again after that. What was used longest ago goes first when the folder is full.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from onnxlite.files import write_atomically
from onnxlite.machine import is_busy

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Size of the whole folder.
LIMIT_BYTES = 4 << 30
_RECORD, _MODEL = ".record", ".onnx"
#: Packages whose version takes part in every key.
_PACKAGES = ("onnxruntime", "onnx", "onnx-ir", "onnxsim", "numpy", "torch")
_PACKAGE_ROOT = Path(__file__).parent
#: `onnxlite.a.b`, and what an import statement takes from it.
_MENTIONED = re.compile(
    r"\bonnxlite((?:\.\w+)+|(?= import))(?: import (?:\(([\w\s,]+)\)|([\w ,]+)))?"
)
#: Files of version 0.1, which nothing reads any more.
_FORMER = ("placement-*.json", "channels-*.json", "latency-*.json", "kernels-*.json", "trials/*")


def cache_folder() -> Path:
    """Return `$ONNXLITE_CACHE`, else the system's cache folder of the user."""
    given = os.environ.get("ONNXLITE_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("onnxlite")


class CacheKey:
    """The name of a result, made of everything that the result depends on.

    Args:
        kind: what it is, for example `"placement"`; it begins the file's name.
        modules: the modules that compute it, for example `"onnxlite.prune"`; a package stands
            for all its modules, and each module for what it imports as well.
        inputs: what it is computed from, by name, as text: digests of models and samples,
            options, the machine.
    """

    def __init__(self, kind: str, modules: tuple[str, ...], inputs: Mapping[str, str]) -> None:
        self.kind, self.modules, self.inputs = kind, modules, dict(inputs)

    @property
    def name(self) -> str:
        """The name of the record's file, without its suffix."""
        parts = [f"{name}={text!r}" for name, text in sorted(self.inputs.items())]
        digest = digest_of("\n".join([code_digest(*self.modules), *parts]))
        return f"{self.kind}-{digest}"


class _Stored(msgspec.Struct, array_like=True):
    """A record as it lies in its file."""

    busy: bool
    content: msgspec.Raw


class Cache:
    """Records by key and models by the digest of their bytes.

    Args:
        folder: where they are; None takes `results` in the user's cache folder, and
            `Cache.in_memory()` has none.
        limit_bytes: of the whole folder.

    Attributes:
        hits: number of records that were found.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder: Path | None = results_folder() if folder is None else folder
        self.hits = 0
        self._limit = limit_bytes
        self._memory: dict[str, bytes] = {}
        self._written = limit_bytes  # trim after the first write

    @classmethod
    def in_memory(cls) -> Cache:
        """A cache that ends with this process."""
        cache = cls(Path())
        cache.folder = None
        return cache

    def read(self, key: CacheKey, kind: type[T]) -> T | None:
        """The record of a key; None if there is none that can be used."""
        content = self._load(key.name + _RECORD)
        if content is None:
            return None
        try:
            stored = msgspec.msgpack.decode(content, type=_Stored)
            record = msgspec.msgpack.decode(stored.content, type=kind)
        except msgspec.MsgspecError:
            return None
        if stored.busy and not is_busy():
            return None
        self.hits += 1
        return record

    def write(self, key: CacheKey, record: object, *, busy: bool = False) -> None:
        """Keep a record; where that cannot be, it is kept for this process only.

        Args:
            key: its name.
            record: anything that msgspec can encode.
            busy: it was measured while other work kept the machine busy.
        """
        stored = _Stored(busy, msgspec.Raw(msgspec.msgpack.encode(record)))
        self._keep(key.name + _RECORD, msgspec.msgpack.encode(stored))

    def read_model(self, digest: str) -> bytes | None:
        """The serialised model with this digest, if it is here and whole."""
        content = self._load(digest + _MODEL)
        return content if content is not None and digest_of(content) == digest else None

    def write_model(self, content: bytes) -> str:
        """Keep a serialised model; returns its digest."""
        digest = digest_of(content)
        self._keep(digest + _MODEL, content)
        return digest

    def trim(self) -> None:
        """Remove what was used longest ago, down to the limit."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            total = 0
            for _, size, path in sorted(_entries(self.folder), reverse=True):
                total += size
                if total > self._limit:
                    path.unlink(missing_ok=True)
        self._written = 0

    def _load(self, name: str) -> bytes | None:
        if name in self._memory:
            return self._memory[name]
        if self.folder is None:
            return None
        path = self.folder / name
        try:
            content = path.read_bytes()
            os.utime(path)  # the time of use decides what goes first
        except OSError:
            return None
        return content

    def _keep(self, name: str, content: bytes) -> None:
        if self.folder is None:
            self._memory[name] = content
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / name, content)
        except OSError as error:
            logger.info("kept in memory only: %s", error)
            self._memory[name] = content
            return
        self._written += len(content)
        if self._written > self._limit // 16:
            self.trim()


class _Table(msgspec.Struct):
    """Numbers by text, those apart that were measured on a busy machine."""

    quiet: dict[str, float] = {}
    busy: dict[str, float] = {}

    def usable(self) -> dict[str, float]:
        return {**self.busy, **self.quiet} if is_busy() else self.quiet


class NumberTable:
    """Numbers by text in one record: many small measurements of one kind.

    A number that was measured while other work kept the machine busy is used only as long as
    the machine stays busy.

    Args:
        cache: where the record is.
        key: of the record.
    """

    def __init__(self, cache: Cache, key: CacheKey) -> None:
        self._cache, self._key = cache, key
        self._numbers = self._stored().usable()
        self._new = _Table()

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def __getitem__(self, name: str) -> float:
        return self._numbers[name]

    def __setitem__(self, name: str, number: float) -> None:
        self._numbers[name] = number
        (self._new.busy if is_busy() else self._new.quiet)[name] = number

    def flush(self) -> None:
        """Write what is new; what another process has written meanwhile stays."""
        if self._new.quiet or self._new.busy:
            stored, new = self._stored(), self._new
            quiet = stored.quiet | new.quiet
            busy = {k: v for k, v in (stored.busy | new.busy).items() if k not in quiet}
            self._cache.write(self._key, _Table(quiet, busy))
            self._new = _Table()

    def _stored(self) -> _Table:
        return self._cache.read(self._key, _Table) or _Table()


class CacheInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of the cache.

    Attributes:
        folder: where it is.
        limit_bytes: its largest size.
        files: number of files by kind.
        size_bytes: bytes by kind.
    """

    folder: str
    limit_bytes: int
    files: dict[str, int]
    size_bytes: dict[str, int]

    def __str__(self) -> str:
        total = sum(self.size_bytes.values())
        rows = [f"{self.folder}: {total / 2**20:.1f} MiB of {self.limit_bytes / 2**20:.0f} MiB"]
        rows += [
            f"  {kind}: {count} files, {self.size_bytes[kind] / 2**20:.1f} MiB"
            for kind, count in sorted(self.files.items())
        ]
        return "\n".join(rows)


def cache_info() -> CacheInfo:
    """List the contents of the user's cache: `onnxlite cache info`."""
    files: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for _, size, path in _entries(results_folder()):
        kind = "model" if path.suffix == _MODEL else path.name.rpartition("-")[0]
        files[kind] = files.get(kind, 0) + 1
        sizes[kind] = sizes.get(kind, 0) + size
    return CacheInfo(
        folder=str(results_folder()), limit_bytes=LIMIT_BYTES, files=files, size_bytes=sizes
    )


def clear_cache() -> int:
    """Empty the user's cache: `onnxlite cache clear`. Returns the bytes freed."""
    entries = [*_entries(results_folder())]
    for pattern in _FORMER:
        entries += [(0.0, path.stat().st_size, path) for path in cache_folder().glob(pattern)]
    for _, _, path in entries:
        path.unlink(missing_ok=True)
    return sum(size for _, size, _ in entries)


def results_folder() -> Path:
    """Return the folder of results in the user's cache."""
    return cache_folder() / "results"


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of the last use, size and path of every file of the cache."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.suffix in (_RECORD, _MODEL):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def digest_of(content: bytes | str) -> str:
    """SHA-256 of some bytes or of a text."""
    return sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of the source of modules and of what they import from onnxlite.

    Args:
        modules: full names; a package stands for all its modules.

    Returns:
        It changes with the versions of the packages that results depend on as well.
    """
    total = sha256()
    for path in sorted(_reached(modules)):
        total.update(path.relative_to(_PACKAGE_ROOT).as_posix().encode() + path.read_bytes())
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            total.update(f"{name} {importlib.metadata.version(name)}".encode())
    return total.hexdigest()


def _reached(modules: tuple[str, ...]) -> set[Path]:
    """The files of modules, and of every module that their text mentions."""
    found: set[Path] = set()
    queue = [path for module in modules for path in _files_of(module)]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        for match in _MENTIONED.finditer(path.read_text("utf-8")):
            module, taken = f"onnxlite{match[1]}", match[2] or match[3] or ""
            names = [f"{module}.{name}" for name in re.findall(r"\w+", taken)]
            for name in [module, *names] if match[1] else names:
                queue += _files_of(name)
    return found


@functools.cache
def _files_of(module: str) -> tuple[Path, ...]:
    """The files of a module or package; none if there is no such module."""
    path = _PACKAGE_ROOT.joinpath(*module.split(".")[1:])
    if path.is_dir():
        return tuple(path.rglob("*.py"))
    file = path.with_suffix(".py")
    return (file,) if file.is_file() else ()
