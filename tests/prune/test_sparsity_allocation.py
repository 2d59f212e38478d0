"""Zeros by sensitivity: the sparsities add up, and go where they do least damage."""

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
    magnitude_sparsities,
    probed,
    schedule,
)


def curve(weights: int, factor: float) -> LayerCurve:
    return LayerCurve(weights, tuple(factor * level**3 for level in LEVELS))


LAYERS = st.lists(st.tuples(st.integers(10, 10**6), st.floats(1e-9, 1e3)), min_size=1, max_size=8)


@example([(54443, 1.0)], 2.1455683319443362e-51)  # rounds to less than nothing
@given(LAYERS, st.floats(0.0, 0.9))
def test_sparsities_add_up_to_the_overall_sparsity(
    layers: list[tuple[int, float]], sparsity: float
) -> None:
    curves = {str(i): curve(*layer) for i, layer in enumerate(layers)}
    sparsities = allocate_sparsity(curves, sparsity)
    total = sum(c.weights for c in curves.values())
    zeros = sum(curves[name].weights * value for name, value in sparsities.items())
    assert zeros == pytest.approx(sparsity * total, abs=1e-6 * total)
    assert all(0 <= value <= LEVELS[-1] for value in sparsities.values())


def test_a_layer_that_hurts_more_gets_fewer_zeros() -> None:
    sparsities = allocate_sparsity({"soft": curve(1000, 1.0), "hard": curve(1000, 20.0)}, 0.5)
    assert sparsities["hard"] < 0.4 < 0.6 < sparsities["soft"]
    # Damage per weight counts: ten times the weights with the same damage are cheap.
    sparsities = allocate_sparsity({"large": curve(10000, 1.0), "small": curve(1000, 1.0)}, 0.5)
    assert sparsities["small"] < sparsities["large"]


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
    sparsities, unobserved = allocate_observed({"a": seen, "b": hurt, "c": seen.times(0.0)}, 0.5)
    assert unobserved == {"c"}
    assert sparsities["c"] == 0.5
    assert sparsities["b"] < 0.5 < sparsities["a"]
    assert sum(sparsities.values()) == pytest.approx(1.5, abs=0.02)


def test_energy_and_magnitudes() -> None:
    array = np.array([[1.0, -2.0], [3.0, 4.0]])
    assert energy_curve(array).damage[LEVELS.index(0.5)] == pytest.approx(5 / 30)
    sparsities = magnitude_sparsities({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, 0.5)
    assert sparsities == {"a": 1.0, "b": 0.0}


def test_schedule_ends_at_the_share() -> None:
    assert schedule(0.8, 1) == [0.8]
    steps = schedule(0.875, 3)
    assert steps == pytest.approx([0.5, 0.75, 0.875])
