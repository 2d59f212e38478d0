"""Zeros with samples: exact shares, less damage than magnitude, every kind of weight."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import PruneWeightsReport
from onnxlite.errors import OptionError
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.prune import prune_weights
from onnxlite.prune.nm_pattern import Pattern, axis_order
from onnxlite.runtime import Session
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8,8,8] x) => (float[n,6] y)
    <float[16,8,3,3] w, float[16] b, float[16,1,3,3] d, float[24,16,1,1] p, float[24] q,
     float[24,6] m>
    { c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) e = Conv<group=16>(r, d)
      f = Conv(e, p, q) s = Relu(f) a = GlobalAveragePool(s) t = Flatten(a) y = MatMul(t, m) }"""


def samples(count: int = 48, seed: int = 0) -> np.ndarray:
    """Smooth images: neighbours have much in common, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 8, 4, 4)).repeat(2, 2).repeat(2, 3)
    return (coarse + 0.2 * rng.standard_normal((count, 8, 8, 8))).astype(np.float32)


def pruned(
    proto: onnx.ModelProto | str, data: object, **options: object
) -> tuple[ir.Model, PruneWeightsReport]:
    proto = parse(proto) if isinstance(proto, str) else proto
    before = proto.SerializeToString()
    model, report = prune_weights(proto, samples=data, **options)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(model, full_check=True)
    return load(model), report


def error(proto: onnx.ModelProto, model: ir.Model, feed: dict[str, np.ndarray]) -> float:
    want, got = Session(load(proto)).run(feed), Session(model).run(feed)
    lost = sum(float(((want[k] - got[k]) ** 2).sum()) for k in want)
    return lost / sum(float((want[k] ** 2).sum()) for k in want)


@pytest.mark.parametrize("scope", ["auto", "layer", "global"])
def test_the_model_gets_its_share_and_comes_closer_than_magnitude(scope: str) -> None:
    proto = parse(NET)
    model, report = pruned(proto, samples(), sparsity=0.6, scope=scope)
    weights = sum(int(row.weights) for row in report.layers)
    zeros = sum(int(row.zeros) for row in report.layers)
    assert zeros == pytest.approx(0.6 * weights, abs=0.02 * weights)
    assert "obc" in report.summary
    plain = load(prune_weights(proto, sparsity=0.6).model)
    feed = {"x": samples(32, seed=1)}
    assert error(proto, model, feed) < 0.3 * error(proto, plain, feed)


def test_wanda_chooses_better_than_magnitude_and_changes_nothing_else() -> None:
    proto = parse(NET)
    model, report = pruned(proto, samples(), sparsity=0.5, method="wanda", exclude=["d"])
    for tensor in proto.graph.initializer:
        old, new = (
            onnx.numpy_helper.to_array(tensor),
            const_array(model.graph.initializers[tensor.name]),
        )
        assert ((new == 0) | (new == old)).all()
    assert "wanda" in report.summary
    assert all(row.sparsity == pytest.approx(0.5, abs=0.03) for row in report.layers)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obc"])
def test_two_of_four_along_input_channels(method: str) -> None:
    model, report = pruned(NET, samples(), pattern="2:4", method=method)
    pattern = Pattern(2, 4)
    for name, axis in {"w": 1, "p": 1, "m": 0}.items():
        array = const_array(model.graph.initializers[name])
        assert pattern.follows(array, axis)
        assert (array == 0).mean() == pytest.approx(0.5)
    assert const_array(model.graph.initializers["d"]).all()
    assert any("not a multiple of 4" in d.message for d in report.skipped)


def test_other_patterns_and_their_order() -> None:
    model, _ = pruned(NET, samples(), pattern="1:8", include=["w", "p"])
    for name in ("w", "p"):
        assert Pattern(1, 8).follows(const_array(model.graph.initializers[name]), 1)
    order = axis_order(np.arange(2 * 3 * 3), (1, 2, 3, 3), 1)
    assert order[:4].tolist() == [0, 9, 3, 12]


def test_each_round_adds_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("onnxlite.prune.sparsegpt")
    fit, asked = module.round_layers, []

    def watched(
        reference: ir.Model,
        candidate: ir.Model,
        feeds: object,
        grids: dict,
        *rest: object,
        **more: object,
    ):
        asked.append({mask.sparsity for mask in grids.values()})
        return fit(reference, candidate, feeds, grids, *rest, **more)

    monkeypatch.setattr(module, "round_layers", watched)
    pruned(NET, samples(), sparsity=0.875, rounds=3, scope="layer")
    assert [next(iter(shares)) for shares in asked] == pytest.approx([0.5, 0.75, 0.875])


def test_rounds_reach_the_same_sparsity() -> None:
    model, report = pruned(NET, samples(), sparsity=0.8, rounds=3, scope="layer")
    assert all(row.sparsity == pytest.approx(0.8, abs=0.03) for row in report.layers)
    assert error(parse(NET), model, {"x": samples(32, seed=1)}) < 0.5


RECURRENT = """<ir_version: 8, opset_import: ["": 17]>
    g (int64[n,5] i) => (float[n,5,6] y)
    <float[20,12] table, float[1,32,12] w, float[1,32,8] r, float[8,6] m, int64[1] one = {1}>
    { e = Gather(table, i) t = Transpose<perm=[1,0,2]>(e) h = LSTM<hidden_size=8>(t, w, r)
      s = Squeeze(h, one) u = Transpose<perm=[1,0,2]>(s) y = MatMul(u, m) }"""


def test_embeddings_and_recurrent_cells_take_part() -> None:
    data = {"i": np.random.default_rng(0).integers(0, 20, (64, 5))}
    model, report = pruned(RECURRENT, data, sparsity=0.5)
    assert {row.weight for row in report.layers} == {"table", "w", "r", "m"}
    zeros = sum(int(row.zeros) for row in report.layers)
    assert zeros == pytest.approx(0.5 * (240 + 384 + 256 + 48), abs=12)
    assert any("pruned by magnitude" in d.message for d in report.skipped)
    model, report = pruned(RECURRENT, None, pattern="2:4")
    assert Pattern(2, 4).follows(const_array(model.graph.initializers["w"]), 2)
    assert any("does not sum products" in d.message for d in report.skipped)


def test_shared_weights_get_zeros_once() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,16] x) => (float[n,16] y) <float[16,16] w, float[16,16] v>
        { a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = MatMul(c, v) }"""
    data = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    model, _ = pruned(text, data, sparsity=0.5, scope="layer")
    assert (const_array(model.graph.initializers["w"]) == 0).sum() == 128


def test_branches_with_weights_of_one_name() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[4,8] x, bool flag) => (float[4,8] y)
        { y = If(flag) <
            then_branch = yes () => (float[4,8] a) {
              w = Constant<value = float[8,8] %s>() a = MatMul(x, w) },
            else_branch = no () => (float[4,8] e) {
              w = Constant<value = float[8,8] %s>() e = MatMul(x, w) }> }"""
    numbers = "{" + ", ".join(f"{n + 1}.0" for n in range(64)) + "}"
    data = {"x": np.ones((4, 8), np.float32), "flag": np.array(True)}
    _, report = pruned(onnx.parser.parse_model(text % (numbers, numbers)), data, sparsity=0.5)
    # The branch that no sample takes gets the overall sparsity.
    assert [int(row.zeros) for row in report.layers] == [32, 32]
    assert sum("change no output" in d.message for d in report.skipped) == 1
    assert len({row.weight for row in report.layers}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.5, "method": "obc"}, "needs samples"),
        ({"threshold": 0.5, "method": "wanda", "samples": samples(8)}, "threshold"),
        ({"pattern": "4:2"}, "0 < N < M"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "exactly one"),
        ({"sparsity": 0.5, "scope": "sensitivity"}, "need method"),
        ({"sparsity": 0.5, "rounds": 0}, "rounds=0"),
        ({"sparsity": 0.5, "method": "best"}, "method"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        prune_weights(parse(NET), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "lost"),
    [({"sparsity": 0.5}, 0.4), ({"sparsity": 0.8}, 2.0), ({"pattern": "2:4"}, 0.6)],
)
def test_residual_net_keeps_its_accuracy(residual_path: Path, options: dict, lost: float) -> None:
    from models.data import calibration_images, test_set

    images, labels = test_set()
    model = prune_weights(load(residual_path), samples=calibration_images(512), **options).model
    want, got = (
        Session(m).run({"image": images})["logits"].argmax(1) for m in (load(residual_path), model)
    )
    assert 100 * ((want == labels).mean() - (got == labels).mean()) <= lost
