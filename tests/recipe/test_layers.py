"""Layers before and after, lined up by where they come from."""

from __future__ import annotations

from onnxlite import prune_channels, quantize_static
from onnxlite.analysis.summary import inspect
from onnxlite.model import load
from onnxlite.recipe.layers import layer_pairs
from onnxlite.timing import InterleavedTimer, use_timer
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


def test_layers_that_are_gone_and_layers_that_are_new():
    other = load(net())
    other.graph.node("Conv_1" if any(n.name == "Conv_1" for n in other.graph) else 2).name = "new"
    pairs = pairs_of(other)
    gone = [pair for pair in pairs if pair.after is None]
    new = [pair for pair in pairs if pair.before is None]
    assert len(gone) == len(new) == 1
    assert new[0].name == "new"
    assert gone[0].before.latency_us is None
