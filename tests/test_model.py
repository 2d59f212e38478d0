"""Reading and cloning: what comes in is what comes out, in every respect a caller can see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import model as model_module
from onnxlite.errors import InvalidModelError, UnsupportedError
from onnxlite.model import (
    clone,
    disk_bytes,
    embedded,
    give_back,
    load,
    mapped_files,
    size_bytes,
    source_files,
    to_bytes,
    to_proto,
)
from onnxlite.runtime import run_all
from onnxlite.save import save
from tests.odd_models import NOT_RUNNABLE, ODD, feeds, odd, parse

RUNNABLE = [name for name in ODD if name not in NOT_RUNNABLE]


def decorated() -> onnx.ModelProto:
    """A model with every kind of annotation, at every level."""
    proto = odd("function")
    proto.producer_name, proto.producer_version = "exporter", "1.2.3"
    proto.domain, proto.model_version, proto.doc_string = "my.domain", 7, "about the model"
    graph, function = proto.graph, proto.functions[0]
    graph.doc_string = "about the graph"
    for owner in (proto, graph, graph.node[0], graph.initializer[0], graph.input[0], function):
        owner.metadata_props.add(key="kind", value=type(owner).__name__)
    graph.node[0].name, graph.node[0].doc_string = "first", "about the node"
    graph.input[0].doc_string, graph.output[0].doc_string = "in", "out"
    function.doc_string = "about the function"
    note = graph.quantization_annotation.add(tensor_name="x")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return proto


def normal(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The proto with tensors as raw bytes and value_info in one order: equal means the same."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    for tensor in graph.initializer:
        properties = list(tensor.metadata_props)
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
        )
        tensor.metadata_props.extend(properties)
    for node in (*graph.node, *(node for function in result.functions for node in function.node)):
        if not node.domain:
            node.ClearField("domain")
    tensors = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    names = {tensor.name for tensor in tensors}
    infos = sorted((i for i in graph.value_info if i.name not in names), key=lambda i: i.name)
    del graph.value_info[:]
    graph.value_info.extend(infos)
    return result


def test_everything_survives(tmp_path):
    proto = decorated()
    onnx.checker.check_model(proto)
    assert normal(to_proto(load(proto))) == normal(proto)
    for mode in ("never", "always"):
        save(proto, tmp_path / "m.onnx", external_data=mode)
        assert normal(to_proto(load(tmp_path / "m.onnx"))) == normal(proto)


@pytest.mark.parametrize("name", RUNNABLE)
def test_round_trip_computes_the_same(name, tmp_path):
    proto, data = odd(name), feeds(name)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    expected = run_all(tmp_path / "m.onnx" if name != "unsorted" else load(proto), data)
    save(proto, tmp_path / "saved.onnx", external_data="always")
    for model in (load(proto), clone(load(proto)), load(tmp_path / "saved.onnx")):
        for want, got in zip(expected, run_all(model, data), strict=True):
            for key in want:
                np.testing.assert_array_equal(got[key], want[key])


@pytest.mark.parametrize("name", [name for name in ODD if name != "unsorted"])
def test_round_trip_keeps_the_interface(name):
    proto = odd(name)
    back = to_proto(load(proto))
    assert [str(v) for v in back.graph.input] == [str(v) for v in proto.graph.input]
    assert [str(v) for v in back.graph.output] == [str(v) for v in proto.graph.output]
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in proto.graph.node]
    versions = {(o.domain if o.domain != "ai.onnx" else "", o.version) for o in proto.opset_import}
    assert {(o.domain, o.version) for o in back.opset_import} == versions


def test_unsorted_is_sorted():
    assert [node.op_type for node in load(odd("unsorted")).graph] == ["MatMul", "Relu"]


def test_stable_order():
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] c, float[2] d)
        { a = Relu(x)  b = Tanh(x)  c = Sqrt(b)  d = Exp(a) }"""
    )
    assert [node.op_type for node in load(proto).graph] == ["Relu", "Tanh", "Sqrt", "Exp"]


class TestKinds:
    def test_proto_in_proto_out(self):
        proto = odd("plain")
        assert isinstance(give_back(proto, load(proto)), onnx.ModelProto)

    def test_other_in_ir_out(self, external_model):
        model = load(external_model)
        assert give_back(external_model, model) is model
        assert give_back(str(external_model), model) is model
        assert give_back(clone(model), model) is model


class TestIndependence:
    @pytest.mark.parametrize("name", ["plain", "constant node weights", "If", "function"])
    def test_renaming_in_the_copy_leaves_the_source(self, name):
        proto = odd(name)
        before = proto.SerializeToString(deterministic=True)
        model = load(proto)
        for graph in model.graphs():
            for value in list(graph.initializers.values()):
                value.name = f"{value.name}_renamed"
            for node in graph:
                node.name = "renamed"
        to_proto(model)
        assert proto.SerializeToString(deterministic=True) == before

    def test_changes_to_a_clone_leave_the_source(self):
        model = load(odd("plain"))
        before = to_bytes(model)
        copy = load(model)
        next(iter(copy.graph)).name = "renamed"
        copy.graph.initializers["w"].name = "renamed"
        copy.graph.inputs[0].shape = ir.Shape([1, 3, 8, 8])
        copy.metadata_props["a"] = "b"
        copy.opset_imports[""] = 5
        copy.meta["seen"] = True
        assert to_bytes(model) == before
        assert "seen" not in model.meta

    def test_clone_shares_tensor_data(self):
        model = load(odd("plain"))
        tensors = [m.graph.initializers["w"].const_value for m in (model, clone(model))]
        assert tensors[0] is tensors[1]

    def test_meta_travels(self):
        model = load(odd("plain"))
        model.meta["lineage"] = {"conv": "conv1"}
        assert clone(model).meta["lineage"] == {"conv": "conv1"}
        assert b"lineage" not in to_bytes(model)


class TestSizes:
    def test_counts_initializers_and_attributes_in_subgraphs(self):
        assert size_bytes(load(odd("plain"))) == 4 * (4 * 3 * 3 * 3 + 4)
        assert size_bytes(load(odd("constant node weights"))) == 4 * 4
        assert size_bytes(load(odd("If"))) == 4 * (16 + 16)
        assert size_bytes(load(odd("int4 weight"))) == 4 + 4
        assert size_bytes(load(odd("no nodes"))) == 0

    def test_disk_bytes_counts_data_files_once(self, external_model):
        data = Path(f"{external_model}.data")
        assert disk_bytes(external_model) == external_model.stat().st_size + data.stat().st_size

    def test_too_large_for_a_proto(self, monkeypatch):
        monkeypatch.setattr(model_module, "PROTO_LIMIT_BYTES", 400)
        with pytest.raises(UnsupportedError, match="at most 2: pass a path"):
            to_proto(load(odd("plain")))


class TestFiles:
    def test_mapped_files(self, external_model):
        names = {path.name for path in mapped_files(load(external_model))}
        assert names == {"big.onnx", "big.onnx.data"}
        assert source_files(external_model) == mapped_files(load(external_model))

    def test_none_behind_a_proto(self):
        assert source_files(odd("plain")) == mapped_files(load(odd("plain"))) == frozenset()

    def test_embedded_is_undone(self, external_model):
        model = load(external_model)
        value = model.graph.initializers["w"]
        with embedded(model):
            assert not isinstance(value.const_value, ir.ExternalTensor)
        assert isinstance(value.const_value, ir.ExternalTensor)

    def test_large_tensors_stay_mapped(self, external_model):
        kinds = {
            v.name: type(v.const_value) for v in load(external_model).graph.initializers.values()
        }
        assert kinds["w"] is kinds["v"] is ir.ExternalTensor


def test_clone_of_an_incomplete_model():
    x, stray = ir.val("x", ir.DataType.FLOAT, [2]), ir.val("stray")
    node = ir.node("Add", [x, stray])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17})
    with pytest.raises(InvalidModelError, match="cannot be copied"):
        clone(ir.Model(graph, ir_version=8))


def test_copies_of_nodes_without_names_have_none():
    """onnx_ir would call them `node_Mul_0` and so on, like those that its exporter has named."""
    proto = parse("""<ir_version: 8, opset_import: ["": 17]> g (float[n] x) => (float[n] y)
        { a = Mul(x, x) b = Mul(a, x) c = Mul(b, x) y = Mul(c, x) }""")
    names = ["node_Mul_1", "", "node_Mul_0", ""]
    for node, name in zip(proto.graph.node, names, strict=True):
        node.name = name
    copies = [clone(clone(load(proto))), load(to_proto(clone(load(proto))))]
    for copy in copies:
        assert [node.name or "" for node in copy.graph] == names
