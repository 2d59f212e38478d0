"""Atomic writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxlite.files import staging_directory, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_staging_directory_lies_beside_its_target(tmp_path: Path) -> None:
    with staging_directory(tmp_path / ("long" * 60)) as directory:
        assert directory.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    command = "import os, sys, pathlib; from onnxlite.files import staging_directory\n"
    command += "with staging_directory(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", command, str(path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    write_atomically(tmp_path / "other.bin", b"other")
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "other.bin"]


def test_a_directory_that_is_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with staging_directory(path) as first:
        write_atomically(path, b"new")
        assert first.is_dir()
