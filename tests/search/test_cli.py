"""`onnxlite optimize`: limits in words, exit codes, and the recipe that reproduces the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from onnxlite.cli import app
from onnxlite.report import from_json
from onnxlite.search import OptimizeReport
from onnxlite.search.search import Search
from tests.search.nets import images, net


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Search, "_is_prunable", lambda self: False)
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path / "cache"))
    onnx.save(net(), "net.onnx")
    np.save("x.npy", images(64))
    return tmp_path


def call(line, code=0):
    result = CliRunner().invoke(app, line.split(), prog_name="onnxlite")
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def test_optimize_and_run_the_recipe_again(folder):
    options = "--data x.npy --max-drop 20% --recipe recipe.toml --report r.json --report r.html"
    result = call(f"optimize net.onnx -o small.onnx {options}")
    assert "Budget, on samples that the choice has not seen" in result.stdout
    assert "trial 2: int8" in result.stderr
    assert "written: small.onnx" in result.stdout
    call("report r.json -o again.html")
    assert Path("again.html").read_bytes() == Path("r.html").read_bytes()
    assert "Trials" in call("report r.json").stdout
    call("run net.onnx recipe.toml --data x.npy -o again.onnx --no-benchmark")
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()
    text = call("optimize net.onnx --data x.npy --max-drop 0.2 --json -q").stdout
    report = from_json(text, "optimize", OptimizeReport)
    assert report.search.budget.max_drop == 0.2
    assert report.search.cached > 0


def test_a_budget_that_is_not_met_exits_with_3(folder):
    options = "--data x.npy --max-bytes 1kB --max-drop 50% --recipe recipe.toml"
    result = call(f"optimize net.onnx -o small.onnx {options} --no-cache", 3)
    assert "max_bytes=1000 is missed" in result.stdout
    assert not Path("small.onnx").exists()
    assert not Path("recipe.toml").exists()
    assert not list(Path("cache").rglob("search-*"))


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--data x.npy --max-drop lots",
        "--data x.npy --max-drop -1%",
        "--data x.npy --max-bytes 3parsec",
        "--data x.npy --metric f1",
        "--data x.npy --target toaster",
        "--data x.npy --time-limit-s 0",
    ],
)
def test_wrong_options_exit_with_2(folder, options):
    before = sorted(Path.cwd().rglob("*.onnx"))
    call(f"optimize net.onnx -o small.onnx {options}", 2)
    assert sorted(Path.cwd().rglob("*.onnx")) == before
