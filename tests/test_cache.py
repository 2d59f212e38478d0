"""Numbers kept between processes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from onnxlite.cache import cache_folder, keep_numbers, read_numbers


def test_numbers_add_up(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "times.json"
    assert read_numbers(path) == {}
    keep_numbers(path, {"a": 1.0, "b": 2.0})
    keep_numbers(path, {"b": 3.0})
    assert read_numbers(path) == {"a": 1.0, "b": 3.0}
    assert [file.name for file in path.parent.iterdir()] == ["times.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "x"}', "\x00\xff"])
def test_a_damaged_file_is_no_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(content.encode("latin1"))
    assert read_numbers(path) == {}
    keep_numbers(path, {"a": 1.0})
    assert read_numbers(path) == {"a": 1.0}


def test_a_folder_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.INFO):
        keep_numbers(tmp_path / "file" / "times.json", {"a": 1.0})
    assert "not kept" in caplog.text


def test_the_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ONNXLITE_CACHE")
    assert cache_folder().name == "onnxlite"
