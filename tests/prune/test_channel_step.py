from __future__ import annotations

import logging

import msgspec
import numpy as np
import onnx
import pytest

from onnxlite.analysis.channels import channel_map
from onnxlite.analysis.cost import cost
from onnxlite.analysis.shapes import generated_feed
from onnxlite.errors import ExecutionError, OptionError
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.prune import ChannelReport, explain_channels, prune_channels
from onnxlite.prune.options import PruneChannelsChanges
from onnxlite.prune.removal import remove_units
from onnxlite.runtime import run_all
from tests.odd_models import NOT_RUNNABLE, ODD, parse

#: Two units a layer of different kinds: 12 channels, and 20 hidden ones.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,4,4] x) => (float[n,5] y)
    <float[12,3,1,1] w1, float[12] b1, float[20,12,1,1] w2, float[20,5] w3>
    { a = Conv(x, w1, b1)  r = Relu(a)  b = Conv(r, w2)  p = GlobalAveragePool(b)
      f = Flatten(p)  y = Gemm(f, w3) }"""


def names(proto):
    """Node names as `load` and `normalize` give them."""
    model = load(proto)
    normalize(model)
    return [node.name for node in model.graph]


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.const_value.shape.numpy())
        for name, value in load(model).graph.initializers.items()
    }


def test_ratio_of_every_group():
    proto = parse(NET)
    reports = []
    result, report = prune_channels(proto, remove=0.25, round_to=1)
    reports.append(report)
    assert isinstance(result, onnx.ModelProto)
    found = shapes(result)
    assert found == {"w1": (9, 3, 1, 1), "b1": (9,), "w2": (15, 9, 1, 1), "w3": (15, 5)}
    (report,) = reports
    assert report.changes == PruneChannelsChanges(units_removed=8, groups=2)
    assert [row.after for row in report.layers] == [(9, 3, 1, 1), (15, 9, 1, 1), (15, 5)]
    assert "'y' is an output" in report.skipped[0].message
    assert "removed 8 of 32 units in 2 of 2 groups" in report.summary
    assert shapes(proto)["w1"] == (12, 3, 1, 1)


def test_the_smallest_go():
    proto = parse(NET)
    weights = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    small = [3, 7, 8]
    weights["w1"][small] *= 1e-3
    weights["w2"][:, small] *= 1e-3
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    for importance in ("l1", "l2"):
        result = prune_channels(proto, remove=0.25, round_to=1, importance=importance).model
        kept = load(result).graph.initializers["b1"].const_value.numpy()
        np.testing.assert_array_equal(kept, np.delete(weights["b1"], small))


def test_random_follows_the_seed():
    def kept(seed):
        model = prune_channels(
            parse(NET), remove=0.5, round_to=1, importance="random", seed=seed
        ).model
        return load(model).graph.initializers["b1"].const_value.numpy().tolist()

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


@pytest.mark.parametrize(
    ("options", "channels", "hidden"),
    [
        ({"remove": 0.3, "round_to": 4}, 8, 16),
        ({"remove": 0.9, "round_to": 8}, 8, 8),
        ({"remove": 0.1, "round_to": 16}, 12, 16),
        ({"remove": 0.99, "round_to": 1}, 1, 1),
        ({"remove": 0.3, "round_to": 8}, 8, 16),
        ({"remove": 0.99, "round_to": 1, "min_channels": 3}, 3, 3),
        ({"remove": 0.5, "min_channels": 100, "round_to": 8}, 12, 20),
        ({"macs": 1.0}, 12, 20),
    ],
)
def test_counts(options, channels, hidden):
    found = shapes(prune_channels(parse(NET), **options).model)
    assert (found["w1"][0], found["w3"][0]) == (channels, hidden)


def test_ratio_by_group_and_protection():
    proto = parse(NET)
    first, second = (name for name in names(proto) if name.startswith("Conv"))
    found = shapes(prune_channels(proto, remove={first: 0.5}, round_to=1).model)
    assert (found["w1"], found["w2"]) == ((6, 3, 1, 1), (20, 6, 1, 1))
    found = shapes(prune_channels(proto, remove=0.5, round_to=1, exclude=("w1",)).model)
    assert (found["w1"], found["w2"]) == ((12, 3, 1, 1), (10, 12, 1, 1))
    report = prune_channels(proto, remove=0.5, round_to=1, exclude=(second,)).report
    assert not report.changed


@pytest.mark.parametrize("goal", ["macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_goals_are_reached_and_not_far_exceeded(goal, share):
    proto, reports = parse(NET), []
    result, report = prune_channels(proto, round_to=1, **{goal: share})
    reports.append(report)
    before, after = (cost(load(model)) for model in (proto, result))
    attribute = {"macs": "macs", "params": "parameters"}[goal]
    left = getattr(after, attribute) / getattr(before, attribute)
    assert share - 0.1 < left <= share
    assert f"{left:.1%} of the {goal} is left (wanted {share:.1%})" in reports[0].summary


def test_a_goal_out_of_reach_says_what_stays():
    result, report = prune_channels(parse(NET), macs=0.01, round_to=4)
    assert {name: shape[0] for name, shape in shapes(result).items()}["b1"] == 4
    assert "(wanted 1.0%)" in report.skipped[0].message
    assert "'Gemm' (5 units)" in report.skipped[0].message


def test_dead_channels_go_first():
    proto = parse(NET)
    weights = {t.name: onnx.numpy_helper.to_array(t).copy() for t in proto.graph.initializer}
    dead = [2, 4, 10]
    weights["w1"][dead] = 0
    weights["b1"][dead] = 0
    weights["w2"][:, dead] *= 100
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    feed = {"x": np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32)}
    for samples in (None, feed["x"]):
        result = prune_channels(proto, samples=samples, macs=0.75, round_to=1, repair=False).model
        kept = load(result).graph.initializers["b1"].const_value.numpy()
        assert not np.isin(weights["b1"][dead], kept).any()
        assert len(kept) <= 9
        first = prune_channels(proto, samples=samples, macs=0.8, round_to=1, repair=False).model
        before, after = run_all(load(proto), [feed])[0], run_all(load(first), [feed])[0]
        np.testing.assert_allclose(after["y"], before["y"], rtol=1e-4, atol=1e-4)


def test_a_users_importance():
    proto = parse(NET)
    seen = {}

    def last_first(name, slices):
        seen[name] = [array.shape for array in slices]
        return -np.arange(len(slices[0]))

    result = prune_channels(proto, remove=0.25, round_to=1, importance=last_first).model
    first, second = (shapes(proto)[name][0] for name in ("b1", "w2"))
    assert list(seen.values()) == [[(12, 3), (12, 1), (12, 20)], [(20, 12), (20, 5)]]
    kept = load(result).graph.initializers["b1"].const_value.numpy()
    original = load(proto).graph.initializers["b1"].const_value.numpy()
    np.testing.assert_array_equal(kept, original[: first * 3 // 4])
    assert shapes(result)["w2"][0] == second * 3 // 4


def test_batch_norm_scales():
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,4,4] x) => (float[n,5,4,4] y)
        <float[4,3,1,1] w, float[4] s = {3, -0.1, 2, 0.2}, float[4] b, float[4] m,
         float[4] v = {1, 1, 1, 1}, float[5,4,1,1] u, float[6,5,1,1] t, float[5,6,1,1] q>
        { c = Conv(x, w) d = BatchNormalization(c, s, b, m, v) e = Conv(d, u) f = Conv(e, t)
          y = Conv(f, q) }"""
    result, report = prune_channels(parse(text), remove=0.5, round_to=1, importance="bn")
    np.testing.assert_allclose(load(result).graph.initializers["s"].const_value.numpy(), [3, 2])
    assert shapes(result)["t"] == (6, 5, 1, 1)
    assert any("no normalization" in skipped.message for skipped in report.skipped)


def test_energy_counts_what_samples_show():
    """Of two channels with equal weights the one that is always zero behind the Relu goes."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,3] y)
        <float[2,2] w = {1, -1, 1, -1}, float[2,3] v = {1, 1, 1, 1, 1, 1}>
        { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"""
    samples = np.random.default_rng(0).random((64, 2)).astype(np.float32)
    for importance in ("energy", "reconstruction"):
        result = prune_channels(
            parse(text), samples=samples, remove=0.5, round_to=1, importance=importance
        ).model
        np.testing.assert_array_equal(
            load(result).graph.initializers["w"].const_value.numpy(), [[1], [1]]
        )


def test_latency_is_measured():
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64,16,16] x) => (float[n,8,16,16] y)
        <float[256,64,3,3] w1, float[256,256,1,1] w2, float[8,256,1,1] w3>
        { a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv(b, w2) d = Relu(c)
          y = Conv(d, w3) }"""
    proto, reports = parse(text), []
    result, report = prune_channels(proto, latency=0.5)
    reports.append(report)
    assert "of the latency is left (wanted 50.0%)" in reports[0].summary
    before, after = (cost(load(model)) for model in (proto, result))
    assert 0.2 < after.macs / before.macs < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove": 1.0}, ">= 0 and < 1"),
        ({"remove": -0.1}, ">= 0 and < 1"),
        ({"remove": {"nobody": 0.5}}, "no group of units is named 'nobody'"),
        ({"remove": {"Gemm": 0.5}}, "cannot be removed"),
        ({}, "exactly one of macs, params, latency"),
        ({"remove": 0.5, "macs": 0.5}, "exactly one of macs, params, latency"),
        ({"macs": 0.0}, r"macs=0\.0: give a finite number > 0 and <= 1"),
        ({"params": 1.1}, "params=1.1"),
        ({"latency": -1.0}, "latency=-1.0"),
        ({"remove": 0.5, "importance": "magic"}, "'magic'"),
        ({"remove": 0.5, "importance": "reconstruction"}, "give samples"),
        ({"remove": 0.5, "importance": "energy"}, "give samples"),
        ({"remove": 0.5, "importance": lambda _name, slices: [1.0]}, "for each of its 12 units"),
        ({"remove": 0.5, "repair": True}, "repair needs samples"),
        ({"remove": 0.5, "round_to": 0}, "round_to=0"),
        ({"remove": 0.5, "min_channels": 0}, "min_channels=0"),
        ({"remove": 0.5, "exclude": ("conv*9",)}, "'conv*9'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message.replace("*", r"\*")):
        prune_channels(parse(NET), **options)


def test_nothing_to_prune_warns(caplog):
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,3] y) <float[4,3] w> { y = MatMul(x, w) }"""
    with caplog.at_level(logging.WARNING):
        report = prune_channels(parse(text), remove=0.3).report
    assert not report.changed
    assert "changed nothing" in caplog.text


def test_shapes_are_fresh_and_the_batch_stays_dynamic():
    model = prune_channels(load(parse(NET)), remove=0.5, round_to=1).model
    known = {v.name: list(v.shape) for node in model.graph for v in node.outputs}
    assert known["r"][1:] == [6, 4, 4]
    assert str(known["b"][0]) == "n"
    assert known["b"][1:] == [10, 4, 4]
    (output,) = run_all(model, [{"x": np.ones((3, 3, 4, 4), np.float32)}])
    assert output["y"].shape == (3, 5)


def test_explain():
    report = explain_channels(parse(NET))
    assert (report.units, report.prunable) == (37, 32)
    first, second, third = report.groups
    assert (first.units, first.width, first.parameters) == (12, 1, 3 + 1 + 20)
    assert (second.units, second.parameters, second.pinned) == (20, 12 + 5, None)
    assert len(second.layers) == 2
    assert "'y' is an output of the model" in (third.pinned or "")
    assert msgspec.json.decode(msgspec.json.encode(report), type=ChannelReport) == report


def test_explain_tells_which_layers_end_with_all_units():
    block = """<ir_version: 8, opset_import: ["": 17]> net (float[n,4,6,6] x) => (float[n,3] y)
        <float[4,4,1,1] s, float[8,4,3,3] w, float[4,8,1,1] v, float[3,4] u>
        { o = Conv(x, s) r = Relu(o) t = Conv<pads=[1,1,1,1]>(r, w) q = Relu(t) b = Conv(q, v)
          a = Add(r, b) p = GlobalAveragePool(a) f = Flatten(p) y = Gemm<transB=1>(f, u) }"""
    model = parse(block)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for node, name in zip(layers, ("stem", "in", "out", "head"), strict=True):
        node.name = name
    report = explain_channels(model)
    assert {row.name: row.branch for row in report.groups} == {
        "stem": (),
        "in": ("in", "out"),
        "head": (),
    }


def test_unshared_copies():
    """A vector and a target that unrelated nodes share get copies of their own."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,3,2,2] x, float[1,12,4] z) => (float[1,5,4] y, float[3,4,4] u, float[1,12,4] v)
        <float[12,3,1,1] w1, float[12] b, float[5,12] w2, int64[3] s = {-1, 12, 4}, float[12,1] c,
         int64[3] k = {3, 4, 4}>
        { a = Conv(x, w1, b)  r = Reshape(a, s)  e = Add(r, c)  y = MatMul(w2, e)
          m = Reshape(z, s)  v = Add(m, c)  u = Reshape(z, k) }"""
    model = load(parse(text))
    normalize(model)
    channels = channel_map(model)
    (group,) = (g for g in channels.groups if g.pin is None)
    before = model.graph.initializers["c"].const_value.numpy()
    remove_units(model, channels, group.units[:5].tolist())
    assert model.graph.initializers["s"].const_value.numpy().tolist() == [-1, 12, 4]
    np.testing.assert_array_equal(model.graph.initializers["c"].const_value.numpy(), before)
    feeds = {"x": np.ones((1, 3, 2, 2), np.float32), "z": np.ones((1, 12, 4), np.float32)}
    (output,) = run_all(model, [feeds])
    np.testing.assert_array_equal(output["v"], 1 + before[None].repeat(4, 2))
    assert [tuple(v.const_value.shape) for n, v in model.graph.initializers.items() if "own" in n]


@pytest.mark.parametrize("name", [name for name in ODD if name not in NOT_RUNNABLE])
def test_odd_models_still_run(name):
    model = load(parse(ODD[name]))
    pruned, report = prune_channels(model, remove=0.5, round_to=1)
    assert report.summary
    try:
        feed = generated_feed(model)
    except ExecutionError as error:
        pytest.skip(str(error))
    before, after = run_all(model, [feed])[0], run_all(pruned, [feed])[0]
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
