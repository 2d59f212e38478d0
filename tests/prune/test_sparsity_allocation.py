"""Zeros by sensitivity: the shares add up, and go where they do least damage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxlite.prune.sparsity_allocation import (
    LEVELS,
    LayerCurve,
    allocate_observed,
    allocate_sparsity,
    energy_curve,
    level_near,
    magnitude_shares,
    probed,
    schedule,
)


def curve(weights: int, factor: float) -> LayerCurve:
    return LayerCurve(weights, tuple(factor * level**3 for level in LEVELS))


LAYERS = st.lists(st.tuples(st.integers(10, 10**6), st.floats(1e-9, 1e3)), min_size=1, max_size=8)


@example([(54443, 1.0)], 2.1455683319443362e-51)  # rounds to less than nothing
@given(LAYERS, st.floats(0.0, 0.9))
def test_shares_make_the_share_of_all(layers: list[tuple[int, float]], share: float) -> None:
    curves = {str(i): curve(*layer) for i, layer in enumerate(layers)}
    shares = allocate_sparsity(curves, share)
    total = sum(c.weights for c in curves.values())
    zeros = sum(curves[name].weights * value for name, value in shares.items())
    assert zeros == pytest.approx(share * total, abs=1e-6 * total)
    assert all(0 <= value <= LEVELS[-1] for value in shares.values())


def test_a_layer_that_hurts_more_gets_fewer_zeros() -> None:
    shares = allocate_sparsity({"soft": curve(1000, 1.0), "hard": curve(1000, 20.0)}, 0.5)
    assert shares["hard"] < 0.4 < 0.6 < shares["soft"]
    # Damage per weight counts: ten times the weights with the same damage are cheap.
    shares = allocate_sparsity({"large": curve(10000, 1.0), "small": curve(1000, 1.0)}, 0.5)
    assert shares["small"] < shares["large"]


def test_curves_rise_and_meet_their_levels() -> None:
    given_curve = curve(100, 2.0)
    assert given_curve.at(np.array(LEVELS[1:])) == pytest.approx(given_curve.damage[1:])
    fine = given_curve.at(np.linspace(0, 0.97, 50))
    assert (np.diff(fine) >= 0).all()
    assert fine[0] == 0


def test_probes_weigh_the_curves() -> None:
    curves = {"a": curve(10, 1.0), "b": curve(10, 1.0)}
    weighed = probed(curves, 0.5, lambda name, _: {"a": 0.1, "b": 0.2}[name], lambda *_: None)
    level = level_near(0.5)
    assert LEVELS[level] == 0.6
    assert weighed["a"].damage[level] == pytest.approx(0.1)
    assert weighed["b"].damage[-1] == pytest.approx(2 * weighed["a"].damage[-1])


def test_what_no_sample_reaches_gets_the_share() -> None:
    seen = LayerCurve(100, tuple(level**2 for level in LEVELS))
    hurt = seen.times(5.0)
    shares, unseen = allocate_observed({"a": seen, "b": hurt, "c": seen.times(0.0)}, 0.5)
    assert unseen == {"c"}
    assert shares["c"] == 0.5
    assert shares["b"] < 0.5 < shares["a"]
    assert sum(shares.values()) == pytest.approx(1.5, abs=0.02)


def test_energy_and_magnitudes() -> None:
    array = np.array([[1.0, -2.0], [3.0, 4.0]])
    assert energy_curve(array).damage[LEVELS.index(0.5)] == pytest.approx(5 / 30)
    shares = magnitude_shares({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, 0.5)
    assert shares == {"a": 1.0, "b": 0.0}


def test_schedule_ends_at_the_share() -> None:
    assert schedule(0.8, 1) == [0.8]
    steps = schedule(0.875, 3)
    assert steps == pytest.approx([0.5, 0.75, 0.875])
