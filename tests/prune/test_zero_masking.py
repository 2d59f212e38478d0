"""What is written over the slices of a unit, and which units the applier takes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.channels import channel_map
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.prune.removal import remove_units, zero_mask_units
from tests.odd_models import parse
from tests.topologies.net import Net, between, rows
from tests.topologies.rule_nets import NETS

VECTOR = "float[8,1,1] k = {1, 2, 3, 4, 5, 6, 7, 8}"
SCALES = "float[8] s = {1, 2, 3, 4, 5, 6, 7, 8}"
POINTS = "int8[8] z = {3, 3, 3, 3, 3, 3, 3, 3}"


def mapped(net: Net):
    model = load(parse(net.text))
    normalize(model)
    return model, channel_map(model)


def fills(net: Net) -> dict[str, float | None]:
    _, channels = mapped(net)
    return {binding.value.name: binding.fill for binding in channels.bindings}


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Sum", "PRelu"])
def test_zeros_silence(op_type):
    assert fills(between(f"d = {op_type}(c, k)", VECTOR)) == {
        "w1": 0.0,
        "b1": 0.0,
        "w2": 0.0,
        "k": 0.0,
    }


@pytest.mark.parametrize("op_type", ["Div", "Pow", "Max", "Mean"])
def test_divisors_and_the_like_stay(op_type):
    assert fills(between(f"d = {op_type}(c, k)", VECTOR))["k"] is None


def test_only_the_variance_of_a_normalization_stays():
    net = between(
        "d = BatchNormalization(c, s, b, m, v)", "float[8] s, float[8] b, float[8] m, float[8] v"
    )
    found = fills(net)
    assert [found[name] for name in ("s", "b", "m", "v")] == [0.0, 0.0, 0.0, None]


def test_products_and_their_bias():
    net = Net(
        "c = Gemm(x, w1, b1) y = Gemm(c, w2)",
        "float[3,8] w1, float[8] b1, float[8,4] w2",
        [8],
        inputs="float[n,3] x",
        outputs="float[n,4] y",
    )
    assert fills(net) == {"w1": 0.0, "b1": 0.0, "w2": 0.0}


def test_scales_of_activations_stay():
    net = between(
        "q = QuantizeLinear(c, s, z) d = DequantizeLinear(q, s, z)", f"{SCALES}, {POINTS}"
    )
    found = fills(net)
    assert (found["s"], found["z"]) == (None, None)


@pytest.mark.parametrize(
    ("more", "inputs", "fill"),
    [
        (SCALES, "s", 0.0),
        (f"{SCALES}, {POINTS}", "s, z", 3.0),
        (f"{SCALES}, int8[8] z = {{3, 3, 3, 3, 3, 3, 3, 4}}", "s, z", None),
        ("float s = {0.1}, int8 z = {-5}", "s, z", -5.0),
    ],
)
def test_quantized_weights_are_silenced_by_their_zero_point(more, inputs, fill):
    net = rows(f"k = DequantizeLinear(w3, {inputs}) d = MatMul(c, k)", f"int8[8,8] w3, {more}")
    found = fills(net)
    assert found["w3"] == fill
    assert found.get("s") is None
    assert found.get("z") is None


def test_weights_that_are_quantized_here_become_zero():
    nodes = "q = QuantizeLinear(w3, s) k = DequantizeLinear(q, s) d = MatMul(c, k)"
    assert fills(rows(nodes, f"float[8,8] w3, {SCALES}"))["w3"] == 0.0


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("Identity(w)", "1,8,1,1"),
        ("Transpose<perm=[1,0,2,3]>(w)", "8,1,1,1"),
        ("Unsqueeze(w, zero)", "8,1,1"),
        ("DequantizeLinear(q, one)", "1,8,1,1"),
    ],
)
def test_divisors_stay_behind_nodes(call, shape):
    weights = "int64[1] zero = {0}, float one = {1}"
    kind = "int8" if "q," in call else "float"
    name = "q" if "q," in call else "w"
    net = between(f"k = {call} d = Div(c, k)", f"{kind}[{shape}] {name}, {weights}")
    assert fills(net)[name] is None


def test_the_last_unit_may_go_and_what_is_no_unit_stays():
    net = Net(
        "c = MatMul(x, w1) y = MatMul(c, w2)",
        "float[3,8] w1, float[8] w2",
        [8],
        inputs="float[n,5,3] x",
        outputs="float[n,5] y",
    )
    for chosen, width in (([8], 7), ([1], 7), ([0, 8], 7), ([0], 8), ([], 8)):
        model, channels = mapped(net)
        remove_units(model, channels, chosen)
        weight = model.graph.initializers["w1"]
        assert weight.const_value.numpy().shape == tuple(weight.shape) == (3, width)


def test_positions_of_no_unit_stay():
    net = Net(
        "c = Conv(x, w1) d = Concat<axis=1>(x, c) y = Conv(d, w2)",
        "float[8,3,1,1] w1, float[4,11,1,1] w2",
        [8],
    )
    model, channels = mapped(net)
    remove_units(model, channels, [0, 1, 2])
    assert model.graph.initializers["w2"].const_value.numpy().shape == (4, 9, 1, 1)


def test_zeroed_slices():
    model, channels = mapped(between("d = Div(c, k)", VECTOR))
    zero_mask_units(model, channels, [2, 3])
    arrays = {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}
    assert np.flatnonzero(arrays["b1"] == 0).tolist() == [1, 2]
    assert np.flatnonzero((arrays["w2"] == 0).all((0, 2, 3))).tolist() == [1, 2]
    assert arrays["k"].reshape(-1).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_pinned_units_are_counted_one_by_one():
    net = between("d = Add(c, z)", inputs="float[n,3,6,6] x, float[n,8,6,6] z")
    _, channels = mapped(net)
    assert sorted(len(group.units) for group in channels.groups) == [4, 8]


def test_a_target_with_one_reader_is_not_copied():
    model, channels = mapped(NETS["reshape to rows"])
    before = set(model.graph.initializers)
    (group,) = (group for group in channels.groups if group.pin is None)
    remove_units(model, channels, group.units[:3].tolist())
    assert set(model.graph.initializers) == before
    assert model.graph.initializers["s"].const_value.numpy().tolist() == [0, 5, 36]


def test_the_shape_attribute_of_the_first_reshape_is_counted_again():
    net = between("r = Reshape<shape=[0,8,36]>(c) d = Reshape<shape=[0,-1,6,6]>(r)", opset=4)
    model, channels = mapped(net)
    (group,) = (group for group in channels.groups if group.pin is None)
    remove_units(model, channels, group.units[:3].tolist())
    shapes = [list(n.attributes["shape"].value) for n in model.graph if n.op_type == "Reshape"]
    assert shapes == [[0, 5, 36], [0, -1, 6, 6]]


def test_a_weight_of_a_constant_node_stays():
    net = Net(
        "c = MatMul(x, w1) k = Constant<value = float[2,2] {1.0, 2.0, 3.0, 4.0}>() "
        "y = MatMul(c, k)",
        "float[3,2] w1",
        [],
        inputs="float[n,3] x",
        outputs="float[n,2] y",
    )
    (group, *_) = channel_map(load(parse(net.text))).groups
    assert group.pin is not None
    assert "its weight comes from a Constant node" in group.pin.reason
