"""Damage by second moments against the error of a least squares fit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.calibrate.moments import Moments
from onnxlite.model import load
from onnxlite.ops.linear_layer import find_layers
from onnxlite.prune import prune_channels
from onnxlite.prune.reconstruction import (
    consumer_of,
    is_even,
    overconfidence,
    reconstruction_curve,
    units_read,
)
from tests.odd_models import parse
from tests.topologies.oracle import mapped
from tests.topologies.rule_nets import NETS

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,6,6] x) => (float[n,5,4,4] y)
    <float[8,3,1,1] w, float[5,8,3,3] v, float[5] c> { h = Conv(x, w) y = Conv(h, v, c) }"""


def reader(rows: int = 4000, seed: int = 0):
    """The second layer of NET as reader of the first one's units, with correlated features."""
    model, channels = mapped(parse(NET))
    layer = find_layers(model)[0][1]
    units = units_read(layer, channels)
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((72, 72)) * 0.3 + np.eye(72)
    x = (rng.standard_normal((rows, 72)) @ mixing + 0.5)[:, None]
    return layer, units, x, consumer_of(layer, units, Moments.of(x, np.zeros((rows, 1, 1))))


def test_units_of_features() -> None:
    _, units, _, _ = reader()
    assert units.shape == (1, 72)
    assert (units.reshape(8, 9) == units.reshape(8, 9)[:, :1]).all()
    assert len(np.unique(units)) == 8


def test_damage_is_the_error_of_the_best_fit() -> None:
    layer, units, x, read = reader()
    ids = np.unique(units)
    curve = reconstruction_curve(ids, [read])
    y = x[:, 0] @ layer.matrix[0] + layer.bias[0]
    power = ((y - y.mean(0)) ** 2).sum()
    assert curve.damage[0] == 0
    assert (np.diff(curve.damage) >= 0).all()
    for count in (1, 3, 6):
        kept = ~np.isin(units[0], curve.order[:count])
        design = np.concatenate([x[:, 0, kept], np.ones((len(x), 1))], axis=1)
        fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        error = ((y - fitted) ** 2).sum() / power
        # The ridge of the inverse costs a little of the best fit.
        assert error <= curve.damage[count] * 1.001
        assert curve.damage[count] == pytest.approx(error, rel=0.1)
        weight, bias = read.without(curve.order[:count])
        adapted = x[:, 0] @ weight[0] + bias[0]
        assert ((y - adapted) ** 2).sum() / power == pytest.approx(error, rel=0.1)
        assert not weight[0][~kept].any()
    assert curve.damage[8] == pytest.approx(1.0, rel=0.02)


def test_the_first_step_is_the_cheapest() -> None:
    _, units, _, read = reader()
    ids = np.unique(units)
    alone = [reconstruction_curve(ids, [read]).damage[1]]
    weight = read.layer.matrix[0]
    for unit in ids:
        own = units[0] == unit
        inverse = read.inverse[0][np.ix_(own, own)].astype(float)
        alone.append((weight[own] * np.linalg.solve(inverse, weight[own])).sum() / read.power)
    assert alone[0] == pytest.approx(min(alone[1:]), rel=1e-6)


def test_of_two_units_alike_one_is_free() -> None:
    layer, units, x, _ = reader()
    x[:, 0, 9:18] = x[:, 0, :9]
    read = consumer_of(layer, units, Moments.of(x, np.zeros((len(x), 1, 1))))
    curve = reconstruction_curve(np.unique(units), [read])
    assert curve.damage[1] < 1e-3
    assert curve.order[0] - units.min() in (0, 1)
    assert curve.damage[2] > 1e-2


@pytest.mark.parametrize("name", ["grouped conv", "conv transpose", "conv transpose, grouped"])
def test_grouped_readers(name: str) -> None:
    model, channels = mapped(parse(NETS[name].text))
    free = [group.units for group in channels.groups if group.pin is None]
    read = [
        u for u in (units_read(layer, channels) for layer in find_layers(model)[0]) if u is not None
    ]
    assert read
    for units in free:
        assert any(np.isin(units, features).all() for features in read)


def test_uneven_readers_are_told() -> None:
    _, units, _, read = reader()
    ids = np.unique(units)
    assert is_even(read, ids)
    assert not is_even(read, np.append(ids, ids.max() + 1))


def test_reconstruction_drops_what_others_know() -> None:
    """Twins of large norm: by norm neither goes, by reconstruction one does."""
    rng = np.random.default_rng(1)
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6] x) => (float[n,4] y) <float[6,4] w, float[4,4] v, float[4] b>
        { h = MatMul(x, w) y = Gemm(h, v, b) }"""
    )
    model = load(proto)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    weight[:, :2] = 3 * weight[:, :1]
    first = next(iter(model.graph.initializers.values()))
    first.const_value = ir.tensor(weight, name=first.name)
    samples = rng.standard_normal((400, 6)).astype(np.float32)
    options = {"remove": 0.25, "round_to": 1, "repair": False}
    for importance, kept_twins in (("reconstruction", 1), ("l2", 2)):
        result = prune_channels(model, samples=samples, importance=importance, **options).model
        columns = next(iter(result.graph.initializers.values())).const_value.numpy()
        twins = sum(np.allclose(column, weight[:, 0]) for column in columns.T)
        assert twins == kept_twins


def checked(rows: int, held_out_rows: int = 4000):
    """The reader of `reader`, with moments of other rows to check on."""
    layer, units, x, _ = reader(rows + held_out_rows)
    empty = np.zeros((len(x), 1, 1))
    fitted = Moments.of(x[:rows], empty[:rows])
    return units, consumer_of(layer, units, fitted, Moments.of(x[rows:], empty[rows:]))


def test_curves_of_many_samples_hold_on_others() -> None:
    units, read = checked(20000, 20000)
    ids = np.unique(units)
    factor = overconfidence(ids, [read])
    assert factor.shape == (len(ids) + 1,)
    assert (factor >= 1).all()
    assert factor.max() < 1.05


def test_damage_of_few_samples_is_scaled_up() -> None:
    few, many = (
        overconfidence(np.unique(units), [read]) for units, read in (checked(40), checked(1000))
    )
    assert few.max() > 1.3
    assert many.max() < 1.1


def test_damage_without_held_out_samples_is_not_scaled() -> None:
    _, units, _, read = reader()
    assert (overconfidence(np.unique(units), [read]) == 1).all()
