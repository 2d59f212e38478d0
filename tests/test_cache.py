"""Results kept between processes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from onnxlite import cache as module
from onnxlite.cache import (
    Cache,
    CacheKey,
    NumberTable,
    cache_folder,
    cache_info,
    clear_cache,
    code_digest,
)


class Record(msgspec.Struct):
    number: float


def key(kind: str = "kind", **inputs: str) -> CacheKey:
    return CacheKey(kind, ("onnxlite.errors",), inputs)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The machine's load, which may be changed."""
    loads = [0.0]
    monkeypatch.setattr("os.getloadavg", lambda: (loads[0], 0.0, 0.0))
    return loads


def test_a_record_is_found_by_all_that_it_depends_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.read(key(a="1"), Record) is None
    cache.write(key(a="1"), Record(2.0))
    assert Cache(tmp_path).read(key(a="1"), Record) == Record(2.0)
    for other in (key(a="2"), key(b="1"), key("other", a="1")):
        assert cache.read(other, Record) is None
    assert cache.hits == 0


def test_names_and_texts_of_inputs_are_told_apart() -> None:
    assert key(a="1", b="2").name == key(b="2", a="1").name
    assert key(a="1\nb='2'").name != key(a="1", b="2").name


def test_changed_code_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also code that a module only imports: what search computes, evaluate computes for it."""
    package = tmp_path / "onnxlite"
    for name in ("a/__init__.py", "a/b.py", "c.py", "d.py", "e.py", "f.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1\n")
    (package / "a" / "b.py").write_text("from onnxlite.c import (\n    x,\n)\nimport onnxlite.e\n")
    (package / "c.py").write_text("from onnxlite import d, e\nfrom onnxlite.e import x\n")
    monkeypatch.setattr(module, "_PACKAGE_ROOT", package)

    def digest() -> str:
        code_digest.cache_clear()
        module._files_of.cache_clear()
        return code_digest("onnxlite.a")

    try:
        seen = {digest()}
        for name in ("a/__init__.py", "a/b.py", "c.py", "d.py", "e.py"):
            path = package / name
            path.write_text(path.read_text() + "y = 2\n")
            seen.add(digest())
        assert len(seen) == 6
        (package / "f.py").write_text("y = 2\n")
        assert digest() in seen
    finally:
        code_digest.cache_clear()
        module._files_of.cache_clear()


def test_a_busy_measurement_is_taken_again_when_the_machine_is_idle(
    tmp_path: Path, load: list[float]
) -> None:
    cache = Cache(tmp_path)
    load[0] = 100.0 * (os.cpu_count() or 1)
    cache.write(key(), Record(1.0), busy=True)
    assert cache.read(key(), Record) == Record(1.0)
    load[0] = 0.0
    assert cache.read(key(), Record) is None
    cache.write(key(), Record(2.0))
    load[0] = 100.0 * (os.cpu_count() or 1)
    assert cache.read(key(), Record) == Record(2.0)


@pytest.mark.parametrize("content", [b"", b"{", b"\x92\xc2", b"\x00\xff"])
def test_a_damaged_record_is_none(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    (tmp_path / f"{key().name}.record").write_bytes(content)
    assert cache.read(key(), Record) is None
    cache.write(key(), Record(1.0))
    assert cache.read(key(), Record) == Record(1.0)
    cache.write(key(), {"text": "another record"})
    assert cache.read(key(), Record) is None


def test_a_damaged_model_is_none(tmp_path: Path) -> None:
    digest = Cache(tmp_path).write_model(b"a model")
    assert Cache(tmp_path).read_model(digest) == b"a model"
    (tmp_path / f"{digest}.onnx").write_bytes(b"a mod")
    assert Cache(tmp_path).read_model(digest) is None


def test_without_a_folder_it_lasts_as_long_as_the_process() -> None:
    cache = Cache.in_memory()
    cache.write(key(), Record(1.0))
    assert cache.read(key(), Record) == Record(1.0)
    assert cache.read_model(cache.write_model(b"a model")) == b"a model"
    assert Cache.in_memory().read(key(), Record) is None


def test_a_folder_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = Cache(tmp_path / "file")
    with caplog.at_level(logging.INFO):
        cache.write(key(), Record(1.0))
    assert "memory only" in caplog.text
    assert cache.read(key(), Record) == Record(1.0)


def test_one_bound_holds_for_everything(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=5000)
    old = cache.write_model(b"o" * 2000)
    for kind in ("placement", "channels"):
        cache.write(key(kind), "x" * 1400)
    os.utime(tmp_path / f"{old}.onnx", (1, 1))
    cache.write(key("layer-times"), "x" * 1400)
    assert cache.read_model(old) is None
    kinds = {path.name.rpartition("-")[0] for path in tmp_path.iterdir()}
    assert kinds == {"placement", "channels", "layer-times"}


def test_numbers_of_several_processes_add_up(tmp_path: Path) -> None:
    one, two = (NumberTable(Cache(tmp_path), key()) for _ in range(2))
    one["a"], two["b"] = 1.0, 2.0
    one.flush()
    two.flush()
    both = NumberTable(Cache(tmp_path), key())
    assert (both["a"], both["b"]) == (1.0, 2.0)
    assert "c" not in both


def test_only_busy_numbers_are_measured_again(tmp_path: Path, load: list[float]) -> None:
    table = NumberTable(Cache(tmp_path), key())
    table["quiet"] = 1.0
    load[0] = 100.0 * (os.cpu_count() or 1)
    table["busy"] = 9.0
    table.flush()
    assert NumberTable(Cache(tmp_path), key())["busy"] == 9.0
    load[0] = 0.0
    idle = NumberTable(Cache(tmp_path), key())
    assert "quiet" in idle
    assert "busy" not in idle
    idle["busy"] = 2.0
    idle.flush()
    load[0] = 100.0 * (os.cpu_count() or 1)
    assert NumberTable(Cache(tmp_path), key())["busy"] == 2.0


def test_what_the_cache_holds_is_told_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    assert clear_cache() == 0
    Cache().write(key("layer-times"), Record(1.0))
    Cache().write_model(b"a model")
    (tmp_path / "placement-0123.json").write_text("{}")
    (tmp_path / "fetched.onnx").write_text("of the user")
    assert cache_info().files == {"layer-times": 1, "model": 1}
    assert "layer-times: 1 file" in str(cache_info())
    assert clear_cache() > 0
    assert cache_info().files == {}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["fetched.onnx"]


def test_the_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ONNXLITE_CACHE")
    assert cache_folder().name == "onnxlite"
