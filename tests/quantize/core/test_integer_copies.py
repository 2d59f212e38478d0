"""A weight that is read as integers and as float is stored once; tables read by rows are int8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnxlite as ol
from onnxlite.fidelity import worst_sqnr_db
from onnxlite.graph import iter_nodes
from onnxlite.inputs import input_specs
from onnxlite.model import load, size_bytes, to_bytes
from onnxlite.normalize import normalize
from onnxlite.quantize.dynamic import kernel_choice
from onnxlite.quantize.dynamic.kernels import BLOCKS, INTEGER
from onnxlite.samples import Samples
from tests.odd_models import parse
from tests.shared_nets import NETS, tied_layers

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
#: A table of positions: how it is read is put in.
TABLE = (
    HEAD
    + """ g (float[n,t,32] x, int64[1] k) => (float[n,t,32] y)
    <float[1,1024,32] w, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
     int64[1] three = {3}, int64[1] minus = {-1}, int64 first = {0}>
    { READ y = Add(x, p) }"""
)
READS = {
    "Slice": "p = Slice(w, zero, k, one)",
    "Slice from behind": "b = Neg(k) q = Slice(w, b, minus, one) p = ReduceMean<axes=[1]>(q)",
    "Slice with steps": "q = Slice(w, zero, k, one, two) p = ReduceSum(q, one)",
    "Gather along the second axis": "s = Squeeze(k) u = Squeeze(one) i = Range(first, s, u)"
    " p = Gather<axis=1>(w, i)",
}
#: What is not a table of rows.
STAYS = {
    "along the last axis": "q = Slice(w, zero, k, two) p = ReduceMean<axes=[1, 2]>(q)",
    "constant bounds": "p = Slice(w, zero, three, one)",
}


def table(read: str) -> tuple[ir.Model, Samples]:
    """A net that adds positions, and samples of three positions."""
    text = TABLE.replace("READ", read)
    model = load(parse(text))
    data = np.random.default_rng(0).standard_normal((16, 3, 32)).astype(np.float32)
    feeds = [{"x": row[None], "k": np.array([3])} for row in data]
    return model, Samples(feeds, input_specs(model))


def int8_bytes(model: ir.Model) -> int:
    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    return sum(t.nbytes for t in tensors if t.dtype in (ir.DataType.INT8, ir.DataType.UINT8))


@pytest.mark.parametrize("read", READS)
def test_a_table_read_by_rows_becomes_int8(read: str) -> None:
    model, feeds = table(READS[read])
    result = ol.quantize_dynamic(model, samples=feeds).model
    assert isinstance(result, ir.Model)
    assert size_bytes(result) < 0.32 * size_bytes(model)
    assert worst_sqnr_db(model, result, feeds) > 40
    packed = ol.quantize_weights(model, bits=8).model
    assert isinstance(packed, ir.Model)
    assert size_bytes(packed) < 0.32 * size_bytes(model)


@pytest.mark.parametrize("read", STAYS)
def test_other_parts_of_a_constant_stay_float(read: str) -> None:
    model, feeds = table(STAYS[read])
    result = ol.quantize_dynamic(model, samples=feeds).model
    assert isinstance(result, ir.Model)
    assert int8_bytes(result) == 0


def test_an_excluded_layer_reads_the_integers_of_the_others() -> None:
    model = load(tied_layers()[0])
    normalize(model)
    data = np.random.default_rng(0).standard_normal((16, 4, 64)).astype(np.float32)
    name = next(node.name for node in model.graph if node.op_type == "MatMul")
    for result in (
        ol.quantize_static(model, data, placement="everything", exclude=(name,)).model,
        ol.quantize_dynamic(model, kernel="integer", exclude=(name,)).model,
        ol.quantize_dynamic(model, kernel="blocks", exclude=(name,)).model,
    ):
        assert isinstance(result, ir.Model)
        assert int8_bytes(result) >= 2 * 64 * 128
        assert int8_bytes(result) < 2.1 * 64 * 128
        assert size_bytes(result) < 0.35 * size_bytes(model)
        assert sum(node.op_type == "MatMul" and node.name == name for node in result.graph) == 1
        feeds = Samples({"x": data[:4]}, input_specs(model))
        assert worst_sqnr_db(model, result, feeds) > 25


@pytest.mark.parametrize("net", ["tied embedding", "weights in bodies"])
def test_onnxruntime_decodes_at_load(net: str, tmp_path: Any) -> None:
    result = ol.quantize_dynamic(load(NETS[net]()[0]), kernel="integer").model
    assert isinstance(result, ir.Model)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(to_bytes(result), options, providers=["CPUExecutionProvider"])
    optimized = load(tmp_path / "optimized.onnx")
    assert not [
        node
        for node in iter_nodes(optimized)
        if any("decoded" in (value.name or "") for value in node.outputs)
    ]


def test_layers_of_one_weight_take_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [INTEGER, BLOCKS, BLOCKS]
    count = iter(range(100))

    def choose(*_: Any) -> Any:
        return kernel_choice.KernelChosen(turns[next(count) % 3], 0.5)

    monkeypatch.setattr(kernel_choice, "_choose_kernel", choose)
    _, report = ol.quantize_dynamic(load(tied_layers(3)[0]))
    kernels: dict[str, set[str]] = {}
    for index, row in enumerate(report.layers):
        kernels.setdefault("even" if index % 2 == 0 else "odd", set()).add(row.kernel)
    assert all(len(names) == 1 for names in kernels.values())
