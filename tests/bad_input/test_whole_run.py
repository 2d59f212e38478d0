"""The main job on every odd model: inspect, compare, and a run of all steps in a row."""

from __future__ import annotations

import os

import pytest

import onnxlite as ol
from onnxlite.errors import ExecutionError, OnnxliteError, SaveError
from onnxlite.model import load
from onnxlite.runtime import run_all
from tests.odd_models import BROKEN, NOT_RUNNABLE, ODD, feeds, odd, parse

RECIPE = ol.Recipe((ol.Simplify(onnxsim=False), ol.PruneWeights(sparsity=0.3), ol.QuantizeStatic()))


@pytest.mark.parametrize("name", ODD)
def test_inspect(name):
    summary = ol.inspect(odd(name))
    types = [node.op_type for node in odd(name).graph.node]
    counted = {key.split(".")[-1]: count for key, count in summary.operators.items()}
    assert all(counted[op_type] >= types.count(op_type) for op_type in set(types))
    assert [value.name for value in summary.outputs] == [v.name for v in odd(name).graph.output]


@pytest.mark.parametrize("name", ODD)
def test_compare_with_itself(name):
    if name in NOT_RUNNABLE:
        with pytest.raises(ExecutionError):
            ol.compare(odd(name), odd(name), samples=feeds(name))
        return
    fidelity = ol.compare(odd(name), odd(name), samples=feeds(name))
    assert all(output.max_abs in (0, None) for output in fidelity.outputs)


@pytest.mark.parametrize("name", ODD)
def test_run(name, tmp_path):
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(odd(name).SerializeToString())
    before = source.read_bytes()
    data = feeds(name) * 2
    if name in NOT_RUNNABLE:
        with pytest.raises(OnnxliteError):
            ol.run(source, RECIPE, samples=data, output=target, benchmark=False)
        assert os.listdir(tmp_path) == ["in.onnx"]
        return
    outcome = ol.run(source, RECIPE, samples=data, output=target, benchmark=False)
    assert source.read_bytes() == before
    assert [report.step for report in outcome.report.steps] == [
        "simplify", "prune-weights", "quantize-static",
    ]  # fmt: skip
    assert all(report.summary for report in outcome.report.steps)
    assert target.exists() == (outcome.report.changed and outcome.usable)
    expected = run_all(load(odd(name)), data)
    for result in [outcome.model, *([load(target)] if target.exists() else [])]:
        for want, got in zip(expected, run_all(result, data), strict=True):
            assert {k: v.shape for k, v in want.items()} == {k: v.shape for k, v in got.items()}


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name, tmp_path):
    text, error, message = BROKEN[name]
    (tmp_path / "in.onnx").write_bytes(parse(text).SerializeToString())
    for call in (
        lambda path: ol.inspect(path),
        lambda path: ol.compare(path, path),
        lambda path: ol.benchmark(path, path),
        lambda path: ol.run(path, RECIPE, output=tmp_path / "out.onnx"),
        lambda path: ol.save(path, tmp_path / "out.onnx"),
    ):
        with pytest.raises(error, match=message):
            call(tmp_path / "in.onnx")
    assert os.listdir(tmp_path) == ["in.onnx"]


def test_output_over_the_input(external_model):
    before = {path: path.read_bytes() for path in external_model.parent.iterdir()}
    for target in before:
        with pytest.raises(SaveError, match="input"):
            ol.run(external_model, [ol.PruneWeights(sparsity=0.5)], output=target)
    assert {path: path.read_bytes() for path in external_model.parent.iterdir()} == before
