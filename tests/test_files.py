"""Atomic writes."""

from __future__ import annotations

import os
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
