"""The floor: results that are plainly useless are told apart, and are not written unasked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxlite as ol
from models.tasks import task_net, task_samples
from onnxlite.cli import app
from onnxlite.model import load
from onnxlite.recipe import PruneWeights
from onnxlite.usability import Figures, PartFigures, judge, judge_models
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,16] x) => (float[n,8] y) <float[16,32] w, float[32,8] v>
    { t = MatMul(x, w) r = Tanh(t) y = MatMul(r, v) }"""
X = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)


def figures(sqnr_db: float, cosine: float | None = None, agreement: float | None = None) -> Figures:
    classes = {} if agreement is None else {"y": agreement}
    tasks = {} if agreement is None else {"agreement": agreement}
    return Figures(200, (PartFigures("y", "y[:, 1:]", sqnr_db, cosine),), classes, tasks)


@pytest.mark.parametrize(
    ("found", "floor_db", "fault"),
    [
        (figures(10.1, 0.91, 0.8), None, ""),
        (figures(9.9), None, "SQNR of y[:, 1:] is 9.9 dB"),
        (figures(30, 0.8), None, "cosine"),
        (figures(30, 0.99, 0.5), None, "agreement is 50%"),
        (figures(7, 0.85, 0.96), None, ""),
        (figures(2, 0.85, 0.96), None, "below 3 dB"),
        (figures(9.9, 0.8, 0.1), 5, ""),
        (figures(9.9), 20, "below 20 dB"),
        (figures(-3), 0, ""),
        (Figures(9, broken="y"), 0, "NaN or infinite"),
    ],
)
def test_floor(found: Figures, floor_db: float | None, fault: str) -> None:
    usability = judge(found, floor_db=floor_db, advice="do this")
    assert usability.usable == (not fault)
    assert fault in usability.reason
    assert not fault or usability.reason.endswith("do this")


@pytest.mark.parametrize(
    ("found", "floor_db", "weakness"),
    [
        (figures(14), None, "SQNR of y[:, 1:] is 14.0 dB, below 15 dB, on 200 samples: do this"),
        (figures(30, 0.93), None, "cosine"),
        (figures(30, 0.99, 0.8), None, "agreement is 80%"),
        (figures(14, 0.93, 0.97), None, ""),
        (figures(14), 12, ""),
        (figures(9), None, ""),
    ],
)
def test_caution(found: Figures, floor_db: float | None, weakness: str) -> None:
    usability = judge(found, floor_db=floor_db, advice="do this")
    assert weakness in usability.caution
    assert bool(usability.caution) == bool(weakness)
    assert ("usable with caution" in str(usability)) == bool(weakness)


def test_scores_that_the_samples_lack_are_named() -> None:
    seen = Figures(12, (PartFigures("y", "y[:, :4]", 30.0),), unseen=("y[:, 4:]",))
    usability = judge(seen, floor_db=None, advice="do this")
    assert usability.usable
    assert "12 samples that it is judged on say nothing about y[:, 4:]" in usability.caution
    assert not judge(seen, floor_db=10, advice="do this").caution


def test_few_samples_do_not_condemn_an_agreement() -> None:
    part = PartFigures("y", "y", 30.0)
    few, many = (Figures(n, (part,), tasks={"detection": 0.6}) for n in (10, 1000))
    assert judge(few, floor_db=None, advice="").usable
    assert "detection is 60%" in judge(few, floor_db=None, advice="").caution
    assert not judge(many, floor_db=None, advice="").usable


def test_a_step_says_whether_its_result_is_usable() -> None:
    half = ol.prune_weights(parse(NET), samples=X, sparsity=0.1)
    assert half.usable
    assert half.report.usability is not None
    assert half.report.usability.decided
    dead = ol.prune_weights(parse(NET), samples=X, sparsity=0.95, method="magnitude")
    assert not dead.usable
    assert "`tune` the result" in str(dead.report)
    asked = ol.prune_weights(parse(NET), samples=X, sparsity=0.95, method="magnitude", floor_db=0)
    assert asked.usable


def test_without_samples_nothing_is_decided() -> None:
    usability = ol.prune_weights(parse(NET), sparsity=0.95).report.usability
    assert usability is not None
    assert (usability.usable, usability.decided) == (True, False)


def test_a_run_writes_a_useless_result_only_by_force(tmp_path: Path) -> None:
    path, recipe = tmp_path / "out.onnx", [PruneWeights(sparsity=0.95, method="magnitude")]
    refused = ol.run(parse(NET), recipe, samples=X, output=path, benchmark=False)
    assert not refused.usable
    assert refused.report.output_path is None
    assert not list(tmp_path.iterdir())
    forced = ol.run(parse(NET), recipe, samples=X, output=path, benchmark=False, force=True)
    assert not forced.usable
    assert path.is_file()


@pytest.mark.parametrize("spread", [False, True])
def test_a_dead_detector_is_not_usable(spread: bool) -> None:
    model, samples = task_net("YOLOv8"), task_samples("YOLOv8")
    judged = partial(judge_models, floor_db=None, advice="do this", spread=spread)
    same = judged(load(model), load(model), samples)
    assert (same.usable, same.tasks) == (True, {"detection": 1.0})
    (bias,) = [t for t in model.graph.initializer if t.name == "bs"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(336, -99, np.float32), "bs"))
    dead = judged(load(task_net("YOLOv8")), load(model), samples)
    assert (dead.usable, dead.tasks) == (False, {"detection": 0.0})


def test_command(tmp_path: Path) -> None:
    model, data, out = (str(tmp_path / name) for name in ("m.onnx", "x.npy", "out.onnx"))
    onnx.save(parse(NET), model)
    np.save(data, X)
    call = ["prune-weights", model, "--sparsity", "0.95", "--method", "magnitude"]
    call += ["--data", data, "-o", out]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 3
    assert "not usable" in result.stdout
    assert not Path(out).exists()
    assert CliRunner().invoke(app, [*call, "--force"]).exit_code == 3
    assert Path(out).is_file()
    Path(out).unlink()
    assert CliRunner().invoke(app, [*call, "--floor-db", "0"]).exit_code == 0
    assert Path(out).is_file()
