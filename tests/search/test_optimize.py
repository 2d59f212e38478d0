"""The whole search on a small net."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.data import calibration_images
from models.tasks import task_net, task_samples
from onnxlite import evaluate
from onnxlite.errors import OptionError, SamplesError, SaveError, UnsupportedError
from onnxlite.model import to_bytes
from onnxlite.quantize.mixed import mixed_precision
from onnxlite.recipe import Recipe, run
from onnxlite.report import from_json, to_json
from onnxlite.search import Budget, OptimizeReport, optimize
from onnxlite.search.search import Search
from onnxlite.search.trial_runner import TrialRunner
from tests.odd_models import parse
from tests.search.conftest import by_size
from tests.search.nets import images, net


@pytest.fixture
def unpruned(monkeypatch):
    """A search of the number formats alone, which is short."""
    monkeypatch.setattr(Search, "_is_prunable", lambda self: False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One search, with its cache, that several tests look at."""
    folder = tmp_path_factory.mktemp("search")
    onnx.save(net(), folder / "net.onnx")
    trials = []
    outcome = optimize(
        folder / "net.onnx",
        images(160),
        output=folder / "small.onnx",
        budget=Budget(max_drop=0.2),
        cache=folder / "cache",
        on_trial=trials.append,
    )
    return folder, outcome, trials


def test_the_result_keeps_to_the_budget_and_is_smaller(found):
    folder, outcome, _ = found
    report, record = outcome.report, outcome.report.search
    assert isinstance(outcome.model, ir.Model)
    assert record.met
    assert record.quality.drop <= 0.2
    assert report.sizes.ratio < 0.4
    assert (folder / "small.onnx").stat().st_size == report.sizes.output_bytes
    assert report.output_path == str(folder / "small.onnx")
    assert record.samples == {"calibration": 80, "selection": 40, "check": 40}
    assert report.fidelity.samples == 40
    assert report.command is None
    assert record.stopped == "finished"


def test_every_trial_is_reported_and_recorded(found):
    _, outcome, trials = found
    record = outcome.report.search
    assert [t.number for t in record.trials] == list(range(1, len(trials) + 1))
    assert {"float", "int8"} <= {t.label for t in record.trials}
    assert any(t.on_front for t in record.trials)
    chosen = record.trials[record.chosen - 1]
    assert chosen.accepted
    assert chosen.recipe == outcome.report.recipe


def test_the_recipe_reproduces_the_result_bit_by_bit(found):
    folder, outcome, _ = found
    recipe = Recipe.from_toml(outcome.report.recipe)
    again = run(folder / "net.onnx", recipe, samples=images(160), output=folder / "again.onnx")
    assert again.report.samples.calibration == 80
    assert (folder / "again.onnx").read_bytes() == (folder / "small.onnx").read_bytes()


def test_a_warm_cache_makes_nothing_again(found, monkeypatch):
    folder, outcome, _ = found
    monkeypatch.setattr("onnxlite.search.executor.run_task", None)
    again = optimize(
        folder / "net.onnx",
        images(160),
        budget=Budget(max_drop=0.2),
        cache=folder / "cache",
    )
    assert to_bytes(again.model) == to_bytes(outcome.model)
    record = again.report.search
    assert record.trials[0].quality == outcome.report.search.trials[0].quality
    assert record.chosen == outcome.report.search.chosen
    assert record.cached > len(record.trials)


def test_other_samples_find_nothing_in_the_cache(found, monkeypatch):
    folder, _, _ = found
    calls = []
    monkeypatch.setattr(
        TrialRunner, "_kept", lambda self, trial, result: calls.append(trial) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        optimize(folder / "net.onnx", images(160, seed=1), cache=folder / "cache")
    assert len(calls) == 1


def test_the_report_goes_to_json_and_back(found):
    _, outcome, _ = found
    assert from_json(to_json("optimize", outcome.report), "optimize", OptimizeReport) == (
        outcome.report
    )
    assert outcome.report.search.verdict in str(outcome.report)


def test_a_budget_that_nothing_keeps_gives_the_original(tmp_path, unpruned):
    proto = net()
    before = proto.SerializeToString()
    outcome = optimize(
        proto,
        images(40),
        output=tmp_path / "small.onnx",
        budget=Budget(max_drop=0.2, max_bytes=100),
        cache=False,
    )
    assert isinstance(outcome.model, onnx.ModelProto)
    assert proto.SerializeToString() == before
    assert not (tmp_path / "small.onnx").exists()
    report = outcome.report
    assert not report.changed
    assert not report.search.met
    assert report.recipe == ""
    assert "max_bytes=100 is missed" in report.search.verdict
    assert from_json(to_json("optimize", report), "optimize", OptimizeReport) == report


RELU = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y)
    { y = Relu(x) }"""


def relu_samples():
    return np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)


def test_the_result_is_the_original_where_nothing_can_be_gained():
    outcome = optimize(parse(RELU), relu_samples(), cache=False)
    assert not outcome.report.search.met
    assert "the result is the original" in outcome.report.search.verdict


def test_latencies_of_a_busy_machine_are_measured_again(tmp_path, monkeypatch):
    calls, counts = [], []

    def counted(*models, **options):
        calls.append(models)
        return by_size(*models, **options)

    module = importlib.import_module("onnxlite.search.optimize")
    monkeypatch.setattr(module, "benchmark", counted)
    for busy in (True, False, False):
        for place in ("onnxlite.search.trial_runner.is_busy", "onnxlite.cache.is_busy"):
            monkeypatch.setattr(place, lambda busy=busy: busy)
        optimize(parse(RELU), relu_samples(), cache=tmp_path)
        counts.append(len(calls))
    first, second, third = counts
    assert 0 < first < second == third


def test_a_step_that_breaks_costs_its_trials_only(monkeypatch, caplog, unpruned):
    def broken(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(mixed_precision, "quantize_mixed_ir", broken)
    outcome = optimize(net(), images(40), budget=Budget(max_drop=0.5), cache=False)
    (failed,) = [t for t in outcome.report.search.trials if t.label == "int8"]
    assert (failed.status, failed.reason) == ("failed", "RuntimeError: a bug")
    assert "please report it" in caplog.text


def stopping(after, error):
    """Progress that raises at the first call after so many finished trials."""
    seen = []

    def progress(stage, done, total):
        if len(seen) == after and "trial" in stage and not stage.startswith("compare"):
            seen.append(None)
            raise error

    return seen, progress


def test_ctrl_c_gives_the_best_so_far(caplog):
    seen, progress = stopping(2, KeyboardInterrupt())
    outcome = optimize(
        net(),
        images(40),
        budget=Budget(max_drop=0.5),
        cache=False,
        on_trial=seen.append,
        progress=progress,
    )
    record = outcome.report.search
    assert record.stopped == "interrupted"
    assert [t.label for t in record.trials] == ["float", "int8"]
    assert record.chosen == 2
    assert "the best result so far" in caplog.text


def test_ctrl_c_before_anything_is_done_gives_the_original():
    _, progress = stopping(0, KeyboardInterrupt())
    outcome = optimize(net(), images(40), cache=False, progress=progress)
    assert outcome.report.search.verdict.endswith("before its first trial did")


def test_the_time_limit_ends_a_search():
    outcome = optimize(net(), images(40), cache=False, time_limit_s=0.01)
    assert outcome.report.search.stopped == "time limit"
    assert not outcome.report.search.met


def test_wrong_options_are_refused_before_any_work(tmp_path):
    def never(trial):
        raise AssertionError

    proto, x = net(), images(40)
    for options, error, word in (
        ({"time_limit_s": 0}, OptionError, "time_limit_s=0"),
        ({"target": "toaster"}, OptionError, "toaster"),
        ({"labels": [1, 2]}, SamplesError, "labels"),
        ({"metric": "accuracy"}, OptionError, "needs labels"),
        ({"output": tmp_path / "no" / "out.onnx"}, SaveError, "directory"),
    ):
        with pytest.raises(error, match=word):
            optimize(proto, **{"samples": x, "cache": False, "on_trial": never, **options})


def test_the_report_names_limits_that_few_samples_leave_undecided(unpruned):
    outcome = optimize(net(), images(24), budget=Budget(max_drop=0.3), cache=False)
    (check,) = outcome.report.search.checks
    assert check.verdict == "undecided"
    assert check.samples_needed is None or check.samples_needed > 8
    assert any("is undecided" in line for line in outcome.report.warnings)


def test_a_model_of_2_gib_is_refused(monkeypatch):
    module = importlib.import_module("onnxlite.search.optimize")  # the name is also a function's
    monkeypatch.setattr(module, "PROTO_LIMIT_BYTES", 1000)
    with pytest.raises(UnsupportedError, match="use run"):
        optimize(net(), images(40), cache=False)


KILLED = """
import os, signal, sys
from onnxlite import Budget, optimize
from tests.search.nets import images

def on_trial(trial):
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)

optimize(sys.argv[1], samples=images(64), budget=Budget(max_drop=0.3), cache=sys.argv[2],
         on_trial=on_trial, time_limit_s=3600.0)
"""


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(tmp_path):
    onnx.save(net(), tmp_path / "net.onnx")
    folder = tmp_path / "cache"
    line = [sys.executable, "-c", KILLED, str(tmp_path / "net.onnx"), str(folder)]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    before = {path.name for path in folder.glob("*.onnx")}
    assert len(before) >= 2
    budget = Budget(max_drop=0.3)
    outcome = optimize(
        tmp_path / "net.onnx", images(64), budget=budget, cache=folder, time_limit_s=3600.0
    )
    assert outcome.report.search.met
    assert outcome.report.search.cached >= 3  # two steps, and a quality
    assert outcome.report.search.trials[1].seconds < 5
    assert not list(folder.glob(".*"))  # no part of a file is left


@pytest.mark.slow
def test_with_the_real_timer(monkeypatch, residual_path):
    """Search on a trained net: INT8 alone keeps the budget and is much faster."""
    module = importlib.import_module("onnxlite.search.optimize")
    monkeypatch.setattr(module, "benchmark", evaluate.benchmark)
    outcome = optimize(residual_path, calibration_images(512), time_limit_s=120, cache=False)
    assert outcome.report.search.met
    assert outcome.report.latency.ratio.high < 0.8
    assert outcome.report.sizes.ratio < 0.35


def test_a_detector_is_searched_by_its_detections():
    def stop(trial):
        if trial.quality is not None:
            raise KeyboardInterrupt

    net, samples = task_net("YOLOv8"), task_samples("YOLOv8", 40)
    outcome = optimize(net, samples, budget=Budget(max_drop=0.2), cache=False, on_trial=stop)
    record = outcome.report.search
    assert record.metric == "detection"
    assert "as YOLOv8 has them" in record.metric_text
    assert "a drop of 1%: 1% of the detections" in record.metric_text
    qualities = [trial.quality for trial in record.trials if trial.quality is not None]
    assert qualities
    assert all("recall" in quality.details for quality in qualities)
