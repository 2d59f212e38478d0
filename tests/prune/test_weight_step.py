"""Magnitude pruning: what is zeroed, what is refused, what the report says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import PruneWeightsReport
from onnxlite.errors import OptionError, UnsupportedError
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.prune import prune_weights
from onnxlite.runtime import probe_feeds, run_all
from onnxlite.save import save


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: const_array(v) for name, v in model.graph.initializers.items()}  # type: ignore[misc]


@pytest.fixture
def two_layers() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,5] y) <float[6,3,3,3] w, float[6] b, float[6,5] v>
        { c = Conv <pads=[1,1,1,1]> (x, w, b) p = GlobalAveragePool(c) f = Flatten(p)
          y = MatMul(f, v) }"""
    )
    for name, array in {
        "w": rng.standard_normal((6, 3, 3, 3)),
        "b": rng.standard_normal(6) * 1e-6,
        "v": rng.standard_normal((6, 5)) * 100,
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_layer_scope_reaches_the_target_in_every_layer(two_layers, sparsity: float) -> None:
    model = prune_weights(load(two_layers), sparsity=sparsity).model
    for name, array in weights(model).items():
        zeros = int((array == 0).sum())
        assert zeros == (0 if name == "b" else round(sparsity * array.size))
    run_all(model, probe_feeds(model))


def test_global_scope_takes_the_smallest_of_all(two_layers) -> None:
    model = prune_weights(load(two_layers), sparsity=0.5, scope="global").model
    after = weights(model)
    total = after["w"].size + after["v"].size
    assert (after["w"] == 0).sum() == round(0.5 * total)
    assert (after["v"] == 0).sum() == 0


def test_threshold(two_layers) -> None:
    before = weights(load(two_layers))
    after = weights(prune_weights(load(two_layers), threshold=1.0).model)
    assert np.array_equal(after["w"] == 0, np.abs(before["w"]) < 1)
    assert np.array_equal(after["w"][after["w"] != 0], before["w"][np.abs(before["w"]) >= 1])


def test_report_states_each_layer(two_layers) -> None:
    reports: list[PruneWeightsReport] = []
    reports.append(prune_weights(two_layers, sparsity=0.5).report)
    (report,) = reports
    assert report.changed
    assert [row.sparsity for row in report.layers] == [0.5, 0.5]
    assert report.changes.weights_zeroed == 81 + 15


def test_proto_in_proto_out_and_input_untouched(two_layers) -> None:
    before = two_layers.SerializeToString()
    result = prune_weights(two_layers, sparsity=0.5).model
    assert isinstance(result, onnx.ModelProto)
    assert two_layers.SerializeToString() == before


def test_names_select_layers(two_layers) -> None:
    after = weights(prune_weights(load(two_layers), sparsity=0.5, include=["v"]).model)
    assert (after["v"] == 0).sum() == 15
    assert (after["w"] == 0).sum() == 0
    after = weights(prune_weights(load(two_layers), sparsity=0.5, exclude=["v"]).model)
    assert (after["v"] == 0).sum() == 0
    with pytest.raises(OptionError, match="matches 'nothing\\*'"):
        prune_weights(two_layers, sparsity=0.5, include=["nothing*"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either sparsity"),
        ({"sparsity": 0.5, "threshold": 1.0}, "exactly one"),
        ({"sparsity": 1.0}, "< 1"),
        ({"sparsity": float("nan")}, "< 1"),
        ({"threshold": -1.0}, "threshold"),
        ({"sparsity": 0.5, "scope": "channel"}, "scope"),
    ],
)
def test_wrong_options(two_layers, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        prune_weights(two_layers, **options)


def test_nothing_to_do_is_said(two_layers, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prune_weights(two_layers, threshold=0.0)
    assert "changed nothing" in caplog.text


def test_nan_weights_are_refused(two_layers) -> None:
    damaged = np.full((6, 5), np.nan, np.float32)
    two_layers.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(damaged, "v"))
    with pytest.raises(UnsupportedError, match=r"'v'.*NaN"):
        prune_weights(two_layers, sparsity=0.5)


def test_weight_that_is_also_data_is_skipped() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
        { t = MatMul(x, w) s = ReduceSum(w) y = Add(t, s) }"""
    )
    report = prune_weights(model, sparsity=0.5).report
    assert not report.changed
    assert "ReduceSum" in report.skipped[0].message


def test_external_weights_stay_on_disk_until_saved(external_model: Path, tmp_path: Path) -> None:
    model = prune_weights(external_model, sparsity=0.75).model
    saved = load(save(model, tmp_path / "pruned.onnx", external_data="always"))
    for name, array in weights(saved).items():
        if array.ndim == 2:
            assert (array == 0).mean() == 0.75, name
    assert any(isinstance(v.const_value, ir.LazyTensor) for v in model.graph.initializers.values())
