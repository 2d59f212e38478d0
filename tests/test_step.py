"""Results of steps: they unpack, save themselves, and stand for their model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.model import load, to_bytes
from onnxlite.quantize import QuantizeWeights
from onnxlite.simplify.options import SimplifyReport
from onnxlite.step import Result, StepContext, StepState
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,4] x) => (float[n,2] y) <float[4,2] w> { y = MatMul(x, w) }"""


@pytest.fixture(params=["proto", "ir", "path"])
def model(request, tmp_path):
    proto = parse(NET)
    if request.param == "path":
        onnx.save(proto, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"
    return proto if request.param == "proto" else ir.from_proto(proto)


def test_a_result_stands_for_its_model(model, tmp_path):
    report = SimplifyReport(changed=True, summary="done")
    held = ol.load(model) if not isinstance(model, onnx.ModelProto) else model
    result = Result(held, report)
    assert tuple(result) == (held, report)
    assert ol.load(result).graph.name == "net"
    assert ol.inspect(result).operators == {"MatMul": 1}
    assert ol.compare(result, result).sqnr_db == float("inf")
    assert result.save(tmp_path / "out.onnx") == tmp_path / "out.onnx"
    assert onnx.load(tmp_path / "out.onnx").graph.name == "net"


def begun(samples=None, **options):
    source = load(parse(NET))
    return StepState.begin(source, samples, QuantizeWeights(**options), StepContext())


def test_phases_run_in_order_on_a_copy():
    state, done = begun(), []

    def rename(state):
        done.append("rename")
        state.model.graph.name = "changed"

    def skip(state):
        done.append("skip")

    report = SimplifyReport(changed=True, summary="done")
    model, found = state.run((rename, skip), lambda state: report)
    assert (done, found) == (["rename", "skip"], report)
    assert (model.graph.name, state.source.graph.name) == ("changed", "net")


def test_a_reason_ends_the_step_with_the_model_as_it_came():
    state = begun()
    before = to_bytes(state.source)

    def rename(state):
        state.model.graph.name = "changed"
        return "it has no weights"

    model, report = state.run((rename, pytest.fail), pytest.fail)
    assert to_bytes(model) == before
    assert model is not state.source
    assert (report.step, report.changed) == ("quantize-weights", False)
    assert report.summary == "it has no weights"


def test_the_state_holds_samples_up_to_the_limit():
    assert begun().samples is None
    samples = begun(np.zeros((9, 4), np.float32), limit=5).samples
    assert samples is not None
    assert samples.count() == 5
