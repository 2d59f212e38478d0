"""What `load` says to files that are damaged, incomplete or not models: its own errors only."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.errors import InvalidModelError, LoadError, OnnxliteError, UnsupportedError
from onnxlite.graph import check_structure
from onnxlite.model import load, to_bytes
from tests.odd_models import BROKEN, odd, parse

FORMATS = {"m.onnx": "protobuf", "m.json": "json", "m.textproto": "textproto", "m.onnxtxt": None}
# onnx announces its text format as experimental.
pytestmark = pytest.mark.filterwarnings("ignore:The onnxtxt format is experimental")
SEEDS = ("plain", "If", "function", "Scan", "QDQ quantized", "opset 9", "string input")


def content(name: str, format: str | None) -> bytes:
    proto = odd(name)
    if format is None:
        return onnx.printer.to_text(proto).encode()
    return onnx.serialization.registry.get(format).serialize_proto(proto)


def mutate(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice(("truncate", "flip", "insert", "delete", "duplicate"))
    if kind == "truncate":
        return data[: rng.randrange(len(data))]
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(result))
        if kind == "flip":
            result[at] = rng.randrange(256)
        elif kind == "insert":
            result[at:at] = rng.randbytes(rng.randrange(1, 5))
        elif kind == "delete":
            del result[at : at + rng.randrange(1, 5)]
        else:
            result[at:at] = result[at : at + rng.randrange(1, 60)]
    return bytes(result)


@pytest.mark.parametrize("file", FORMATS)
def test_every_format_loads(tmp_path, file):
    for name in ("plain", "If", "opset 9"):
        (tmp_path / file).write_bytes(content(name, FORMATS[file]))
        assert [node.op_type for node in load(tmp_path / file).graph] == [
            node.op_type for node in odd(name).graph.node
        ]


@pytest.mark.parametrize("file", FORMATS)
def test_mutated_files(tmp_path, file):
    rng = random.Random(0)
    outcomes = {"refused": 0, "loaded": 0}
    for name in SEEDS if FORMATS[file] else SEEDS[:3]:
        data = content(name, FORMATS[file])
        for _ in range(80):
            (tmp_path / file).write_bytes(mutate(data, rng))
            try:
                to_bytes(load(tmp_path / file))
                outcomes["loaded"] += 1
            except OnnxliteError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 50


def test_every_truncation_is_refused(tmp_path):
    data = odd("plain").SerializeToString()
    opset_at_end = onnx.ModelProto.FromString(data).opset_import[0].ByteSize() + 2
    for size in range(len(data) - opset_at_end):
        (tmp_path / "m.onnx").write_bytes(data[:size])
        with pytest.raises((LoadError, InvalidModelError)):
            load(tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes(tmp_path, seed):
    rng = random.Random(seed)
    for suffix in ("onnx", "json", "textproto", "onnxtxt"):
        path = tmp_path / f"random.{suffix}"
        path.write_bytes(rng.randbytes(rng.randrange(1, 400)))
        with pytest.raises(LoadError, match="random"):
            load(path)


def test_no_such_file(tmp_path):
    with pytest.raises(LoadError, match=r"no model file at .*nowhere\.onnx"):
        load(tmp_path / "nowhere.onnx")


def test_a_directory(tmp_path):
    with pytest.raises(LoadError, match="is a directory"):
        load(tmp_path)


def test_a_name_too_long(tmp_path):
    with pytest.raises(LoadError, match="too long"):
        load(tmp_path / ("m" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(odd("plain").SerializeToString())
    (tmp_path / "m.onnx").chmod(0)
    with pytest.raises(LoadError, match="Permission denied"):
        load(tmp_path / "m.onnx")


def test_an_empty_file(tmp_path):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(LoadError, match="is empty"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("name", "content"),
    [("m.onnx", b"PK\3\4" + bytes(100)), ("m.onnx", b"\x93NUMPY"), ("m.onnx", b"<html>404</html>")],
)
def test_another_format(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=r"m\.onnx"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graph(tmp_path, name):
    text, error, message = BROKEN[name]
    proto = parse(text)
    with pytest.raises(error, match=message):
        load(proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(error, match=message):
        load(tmp_path / "m.onnx")


def test_cyclic_ir_model():
    x, u = ir.val("x", ir.DataType.FLOAT, [2]), ir.val("u")
    add, relu = ir.node("Add", [x, u]), ir.node("Relu", [x])
    relu.replace_input_with(0, add.outputs[0])
    add.replace_input_with(1, relu.outputs[0])
    graph = ir.Graph([x], [relu.outputs[0]], nodes=[add, relu], opset_imports={"": 17})
    model = ir.Model(graph, ir_version=8)
    with pytest.raises(InvalidModelError, match="cannot be copied"):
        load(model)
    with pytest.raises(InvalidModelError, match="cycle"):
        check_structure(model)


def test_training_info():
    proto = odd("plain")
    proto.training_info.add().algorithm.CopyFrom(proto.graph)
    with pytest.raises(UnsupportedError, match="training_info"):
        load(proto)


def shorten(tensor):
    tensor.raw_data = tensor.raw_data[:-1]


def forget(tensor):
    tensor.ClearField("raw_data")


def mistype(tensor):
    tensor.data_type = 77


def untype(tensor):
    tensor.data_type = 0


def negate(tensor):
    tensor.dims[0] = -4


def overstate(tensor):
    tensor.dims[0] = 2**50


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shorten, r"'w' \[4, 3, 3, 3\] of type FLOAT needs 432 bytes and has 431"),
        (forget, "needs 108 values and has 0"),
        (mistype, "unknown data type 77"),
        (untype, "unknown data type 0"),
        (negate, "negative dimension"),
        (overstate, "truncated or damaged"),
    ],
)
def test_damaged_tensor(damage, message):
    proto = odd("plain")
    damage(next(t for t in proto.graph.initializer if t.name == "w"))
    with pytest.raises(LoadError, match=message):
        load(proto)


@pytest.mark.parametrize("field", ["op_type", "name", "input"])
def test_names_that_are_not_text(field):
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { [qqqq] y = qqqq(qqqq) }"""
    )
    data = proto.SerializeToString().replace(b"qqqq", b"qq\xc0q")
    with pytest.raises(LoadError, match="not UTF-8"):
        load(onnx.ModelProto.FromString(data))


def test_sparse_weights_become_dense():
    proto = odd("plain")
    sparse = proto.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.float32([5, 7]), "b"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.int64([1, 3]), "i"))
    dense = next(t for t in proto.graph.initializer if t.name == "b")
    proto.graph.initializer.remove(dense)
    model = load(proto)
    assert model.graph.initializers["b"].const_value.numpy().tolist() == [0, 5, 0, 7]
    assert len(proto.graph.sparse_initializer) == 1
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.int64([1, 9]), "i"))
    with pytest.raises(InvalidModelError, match=r"sparse tensor 'b' \[4\]"):
        load(proto)


def test_sparse_constant_becomes_dense():
    proto = odd("constant node weights")
    values = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [9.0])
    indices = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1, 2], [1, 0])
    sparse = onnx.helper.make_sparse_tensor(values, indices, [2, 2])
    proto.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("sparse_value", sparse))
    node = next(iter(load(proto).graph))
    assert node.attributes["value"].as_tensor().numpy().tolist() == [[0, 0], [9, 0]]


class TestExternalData:
    def relocate(self, path: Path, **entries: str) -> None:
        """Rewrite where the first external tensor says its data are."""
        proto = onnx.load(path, load_external_data=False)
        tensor = next(t for t in proto.graph.initializer if t.external_data)
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
        path.write_bytes(proto.SerializeToString())

    def test_missing(self, external_model):
        Path(f"{external_model}.data").unlink()
        with pytest.raises(LoadError, match=r"needs the external file .*big\.onnx\.data.*missing"):
            load(external_model)

    def test_truncated(self, external_model):
        os.truncate(f"{external_model}.data", 4000)
        with pytest.raises(LoadError, match=r"truncated: tensor 'w' ends at byte 4096.* at 4000"):
            load(external_model)

    def test_is_a_directory(self, external_model):
        Path(f"{external_model}.data").unlink()
        Path(f"{external_model}.data").mkdir()
        with pytest.raises(LoadError, match=r"big\.onnx\.data"):
            load(external_model)

    @pytest.mark.parametrize("location", ["../escape.data", "/etc/hostname", "a/../../b"])
    def test_escapes(self, external_model, location):
        self.relocate(external_model, location=location)
        with pytest.raises(LoadError, match="outside the model's directory"):
            load(external_model)

    def test_escapes_by_a_link(self, external_model, tmp_path_factory):
        outside = tmp_path_factory.mktemp("outside") / "secret"
        data = Path(f"{external_model}.data")
        data.rename(outside)
        data.symlink_to(outside)
        with pytest.raises(LoadError, match="outside the model's directory"):
            load(external_model)

    def test_hard_link(self, external_model, tmp_path):
        os.link(f"{external_model}.data", tmp_path / "second")
        with pytest.raises(LoadError, match="hard-linked"):
            load(external_model)

    @pytest.mark.parametrize(
        "entries",
        [{"offset": "-8"}, {"offset": "x"}, {"length": "7"}, {"length": "-1"}, {"location": ""}],
    )
    def test_nonsense(self, external_model, entries):
        self.relocate(external_model, **entries)
        with pytest.raises((LoadError, InvalidModelError)):
            load(external_model)

    def test_in_a_proto_has_no_directory(self, external_model):
        with pytest.raises(LoadError, match="pass the model's path instead"):
            load(onnx.load(external_model, load_external_data=False))

    def test_vanishes_after_load(self, external_model):
        model = load(external_model)
        Path(f"{external_model}.data").unlink()
        with pytest.raises(LoadError, match="cannot read"):
            to_bytes(model)

    def test_stays_readable_from_another_directory(self, external_model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = load("big.onnx")
        monkeypatch.chdir("/")
        assert len(to_bytes(model)) > 32 * 32 * 4
