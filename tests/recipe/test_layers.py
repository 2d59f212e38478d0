"""Layers before and after, lined up by where they come from."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite import prune_channels, quantize_static
from onnxlite.analysis.summary import inspect
from onnxlite.model import load
from onnxlite.recipe import QuantizeDynamic, QuantizeStatic, Simplify, ToFloat16, run
from onnxlite.recipe.layers import layer_pairs
from onnxlite.timing import InterleavedTimer, use_timer
from tests.odd_models import parse
from tests.search.nets import images, net


def pairs_of(result, *, feed=None):
    original = load(net())
    return layer_pairs(original, result, inspect(original), inspect(result), feed)


def test_pruned_and_quantized_layers_find_their_originals():
    x = images(32)
    small = prune_channels(load(net()), samples=x, macs=0.5, round_to=4).model
    result = quantize_static(small, x, placement="everything", rounding="nearest").model
    with use_timer(InterleavedTimer()):
        pairs = pairs_of(result, feed={"x": x[:1]})
    assert [pair.before.op_type for pair in pairs] == ["Conv", "Conv", "Conv", "MatMul"]
    assert all(pair.after is not None for pair in pairs)
    assert {pair.before.precision for pair in pairs} == {"float32"}
    assert {pair.after.precision for pair in pairs} == {"int8"}
    assert [pair.before.channels for pair in pairs] == [32, 32, 32, 10]
    assert sum(pair.after.channels for pair in pairs) < 106
    assert pairs[-1].after.channels == 10
    assert all(pair.after.macs < pair.before.macs for pair in pairs)
    assert all(pair.before.latency_us > 0 for pair in pairs)
    untimed = pairs_of(result, feed={"x": x[:1]})
    assert {pair.before.latency_us for pair in untimed} == {None}


FUSED = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,3,8,8] x) => (float[n,4] y)
    <float[8,3,3,3] w, float[8] g, float[8] b, float[8] m, float[8] s = {1,1,1,1,1,1,1,1},
     float[8,16] u, float[16] c, float[16,4] v, float[4] d>
    { [conv] t = Conv<pads=[1,1,1,1]>(x, w) [bn] a = BatchNormalization(t, g, b, m, s)
      [relu] r = Relu(a) [pool] p = GlobalAveragePool(r) [flat] f = Flatten(p)
      [one] k = MatMul(f, u) [one_bias] h = Add(k, c) [act] e = Relu(h)
      [two] o = MatMul(e, v) [two_bias] y = Add(o, d) }"""


@pytest.mark.parametrize(
    "steps",
    [
        [Simplify()],
        [Simplify(), QuantizeDynamic(kernel="integer")],
        [Simplify(), QuantizeDynamic(kernel="blocks")],
        [QuantizeDynamic(kernel="integer"), Simplify()],
        [Simplify(), QuantizeStatic(placement="everything", rounding="nearest")],
        [Simplify(), ToFloat16()],
    ],
    ids=lambda steps: " ".join(step.name() for step in steps),
)
def test_fused_and_replaced_layers_find_their_originals(steps):
    x = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    _, report = run(parse(FUSED), steps, samples=x, benchmark=False)
    pairs = {pair.name: pair for pair in report.layers}
    for name in ("conv", "one", "two"):
        assert pairs[name].after is not None, name
        assert pairs[name].before.macs == pairs[name].after.macs
    added = [pair.name for pair in report.layers if pair.before is None]
    assert not added
    assert {pairs[name].after.name for name in ("conv", "one", "two")} != {"conv", "one", "two"}


def test_a_dynamic_lstm_finds_its_original():
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[t,1,4] x) => (float[t,1,1,8] y) <float[1,32,4] w, float[1,32,8] r>
        { [cell] y = LSTM<hidden_size=8>(x, w, r) }"""
    x = np.random.default_rng(0).standard_normal((6, 1, 4)).astype(np.float32)
    step = QuantizeDynamic(kernel="integer")
    _, report = run(parse(text), [step], samples=[{"x": x}] * 4, benchmark=False)
    (pair,) = report.layers
    assert (pair.before.op_type, pair.after.op_type) == ("LSTM", "DynamicQuantizeLSTM")
    assert pair.before.macs == pair.after.macs


def test_patterns_mean_the_names_of_the_original():
    """Simplify gives a fused layer the name of the node whose output it makes."""
    x = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
    for step in (
        QuantizeDynamic(kernel="integer", exclude=("one",)),
        QuantizeStatic(placement="everything", rounding="nearest", exclude=("one",)),
    ):
        _, report = run(parse(FUSED), [Simplify(), step], samples=x, benchmark=False)
        after = {pair.name: pair.after.precision for pair in report.layers if pair.after}
        assert (after["one"], after["two"]) == ("float32", "int8")


def test_layers_that_are_gone_and_layers_that_are_new():
    other = load(net())
    other.graph.node("Conv_1" if any(n.name == "Conv_1" for n in other.graph) else 2).name = "new"
    pairs = pairs_of(other)
    gone = [pair for pair in pairs if pair.after is None]
    new = [pair for pair in pairs if pair.before is None]
    assert len(gone) == len(new) == 1
    assert new[0].name == "new"
    assert gone[0].before.latency_us is None
