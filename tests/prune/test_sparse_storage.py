"""Sparse storage: smaller where it pays off, the same outputs, dense again when read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxlite import SparseStorageReport, sparse_storage
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.prune import prune_weights
from onnxlite.recipe import PruneWeights, Recipe, SparseStorage, run
from onnxlite.runtime import Session
from onnxlite.save import save
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8,8,8] x) => (float[n,6] y)
    <float[32,8,3,3] w, float[32] b, float[32,6] v>
    { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) a = GlobalAveragePool(r) f = Flatten(a)
      y = MatMul(f, v) }"""


def zeroed(share: float) -> onnx.ModelProto:
    return prune_weights(parse(NET), sparsity=share, include=["w"]).model


def stored(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, SparseStorageReport]:
    before = proto.SerializeToString()
    result, report = sparse_storage(proto)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(result)
    return result, report


@pytest.mark.parametrize("share", [0.75, 0.95])
def test_smaller_and_the_same(share: float) -> None:
    dense = zeroed(share)
    sparse, report = stored(dense)
    assert report.changed
    assert [t.values.name for t in sparse.graph.sparse_initializer] == ["w"]
    assert "w" not in {t.name for t in sparse.graph.initializer}
    saved = dense.ByteSize() - sparse.ByteSize()
    assert saved == pytest.approx(2304 * 4 - round(2304 * (1 - share)) * 12, abs=150)
    assert "zipped" in report.summary
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)}
    want = Session(load(dense)).run(feed)["y"]
    assert np.array_equal(Session(load(sparse)).run(feed)["y"], want)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.66])
def test_dense_where_that_is_smaller(share: float) -> None:
    result, report = stored(zeroed(share) if share else parse(NET))
    assert not report.changed
    assert "pay off" in report.summary
    assert not result.graph.sparse_initializer


def test_saved_sparse_and_read_dense(tmp_path: Path) -> None:
    dense = zeroed(0.9)
    path = save(sparse_storage(load(dense)).model, tmp_path / "sparse.onnx")
    assert len(onnx.load(path).graph.sparse_initializer) == 1
    assert path.stat().st_size < 0.5 * dense.ByteSize()
    again = load(path)
    assert np.array_equal(
        const_array(again.graph.initializers["w"]),
        const_array(load(dense).graph.initializers["w"]),
    )
    # ONNX Runtime reads the file as it is.
    Session(path).run({"x": np.zeros((1, 8, 8, 8), np.float32)})


def test_a_weight_that_is_an_output_stays_dense() -> None:
    proto = zeroed(0.9)
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (32, 8, 3, 3))
    )
    _, report = stored(proto)
    assert not report.changed


def test_as_a_step(tmp_path: Path) -> None:
    steps = (PruneWeights(sparsity=0.9, method="magnitude"), SparseStorage())
    outcome = run(parse(NET), Recipe(steps), output=tmp_path / "o.onnx", benchmark=False)
    assert [step.changed for step in outcome.report.steps] == [True, True]
    assert outcome.report.sizes.ratio < 0.6
    assert onnx.load(tmp_path / "o.onnx").graph.sparse_initializer
