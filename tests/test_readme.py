"""What the README promises: its example runs, and its set-up commands are two."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.data import calibration_images

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs(
    residual_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "model.onnx").write_bytes(residual_path.read_bytes())
    np.save(tmp_path / "calibration.npy", calibration_images(32))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 12
    exec(compile(example, "README.md", "exec"), {})
    sqnr, ratio = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert sqnr > 25
    assert ratio > 0
    onnx.checker.check_model(str(tmp_path / "small.onnx"), full_check=True)


def test_two_commands_set_everything_up() -> None:
    setup = README.split("## Set up")[1].split("## ")[0]
    assert len(re.findall(r"```sh\n(.*?)\n```", setup)) == 2
    ci = (Path(__file__).parent.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -q -e '.[test]' && python -m pytest" in setup
    assert "pip install -q -e '.[test]' && python -m pytest" in ci
