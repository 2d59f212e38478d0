"""The demo runs on what comes with the package, and what it writes is consistent."""

from __future__ import annotations

import pytest

from onnxlite import evaluate, load_recipe
from onnxlite.demo import RECIPE, demo
from onnxlite.recipe import RunReport
from onnxlite.report import from_json
from tests.fake_timer import made_up_latency


@pytest.mark.slow
def test_demo(tmp_path, monkeypatch, residual_path):
    latency = made_up_latency(1.0)
    monkeypatch.setattr(evaluate, "benchmark", lambda *args, **options: latency)
    folder = tmp_path / "new" / "demo"
    report = demo(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "recipe.toml",
        "report.json",
        "residual.onnx",
        "small.onnx",
    ]
    assert load_recipe(folder / "recipe.toml") == RECIPE
    assert from_json((folder / "report.json").read_text(), "run", RunReport) == report
    accuracy = report.fidelity.metrics[0]
    assert accuracy.reference > 0.92
    assert accuracy.candidate > accuracy.reference - 0.005
    assert report.fidelity.sqnr_db > 20
    assert report.sizes.ratio < 0.31
    assert report.sizes.output_deflated_bytes < 0.25 * report.sizes.input_deflated_bytes
    assert (report.samples.calibration, report.samples.evaluation) == (1024, 2000)
