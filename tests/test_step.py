"""Results of steps: they unpack, save themselves, and stand for their model."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

import onnxlite as ol
from onnxlite.records import StepReport
from onnxlite.step import Result
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
    report = StepReport(step="x", changed=True, summary="done")
    held = ol.load(model) if not isinstance(model, onnx.ModelProto) else model
    result = Result(held, report)
    assert tuple(result) == (held, report)
    assert ol.load(result).graph.name == "net"
    assert ol.inspect(result).operators == {"MatMul": 1}
    assert ol.compare(result, result).sqnr_db == float("inf")
    assert result.save(tmp_path / "out.onnx") == tmp_path / "out.onnx"
    assert onnx.load(tmp_path / "out.onnx").graph.name == "net"
