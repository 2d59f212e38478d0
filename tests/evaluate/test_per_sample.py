"""Single samples: quantiles, the index of the worst one, and heavy tails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.evaluate import compare
from onnxlite.evaluate.per_sample import SampleRows, sample_sqnr_db, spread_of
from tests.odd_models import parse


def test_quantiles_and_the_worst_sample():
    losses = np.arange(100.0)[::-1]
    spread = spread_of(losses)
    assert (spread.samples, spread.median, spread.q95) == (100, 50, 95)
    assert (spread.worst, spread.worst_sample, spread.worst_count) == (99, 0, 1)
    assert spread.worst_fraction == pytest.approx(99 / losses.sum())


def test_one_sample_and_none_lost():
    one = spread_of(np.array([2.0]))
    assert (one.median, one.worst, one.worst_fraction) == (2, 2, 1)
    assert not one.is_heavy
    assert spread_of(np.zeros(5)).worst_fraction == 0


@pytest.mark.parametrize("count", [10, 24, 100, 400, 2000])
def test_a_heavy_tail_is_told_from_a_light_one(count):
    rng = np.random.default_rng(0)
    heavy = [spread_of(rng.lognormal(0, 3, count)).is_heavy for _ in range(100)]
    light = [spread_of(rng.exponential(1, count)).is_heavy for _ in range(100)]
    assert np.mean(heavy) >= 0.85
    assert np.mean(light) <= 0.1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.randoms())
def test_the_order_of_samples_changes_only_the_index(losses, random):
    order = list(range(len(losses)))
    random.shuffle(order)
    values = np.array(losses)
    one, two = spread_of(values), spread_of(values[order])
    assert (one.median, one.q95, one.worst) == (two.median, two.q95, two.worst)
    assert one.worst_fraction == pytest.approx(two.worst_fraction)
    assert values[order][two.worst_sample] == one.worst


def test_other_units_keep_the_index():
    spread = spread_of(np.array([0.0, 0.1, 0.01])).converted(sample_sqnr_db)
    assert (spread.median, spread.worst, spread.worst_sample) == (pytest.approx(20), 10, 1)
    assert sample_sqnr_db(0.0) == pytest.approx(300)


def test_rows_that_are_no_samples_count_for_their_feed():
    rows = SampleRows()
    rows.add(3, 3)
    rows.add(5, 2)  # five boxes of two samples
    rows.add(0, 2)
    rows.add(1, 1)
    signal = np.ones(9)
    noise = np.array([1e-3, 1e-4, 1e-5, *[1e-2] * 5, 1e-1])
    spread = rows.sqnr_spread(signal, noise)
    assert (spread.samples, spread.worst_sample) == (5, 7)
    assert spread.worst == pytest.approx(10)
    assert rows.sqnr_spread(np.zeros(9), noise) is None


def test_a_sample_is_measured_against_its_own_power():
    rows = SampleRows()
    rows.add(4, 4)
    # One loud sample hides from the figure of all that the others are lost.
    spread = rows.sqnr_spread(np.array([1.0, 1.0, 1.0, 1e8]), np.array([0.9, 1.0, 0.8, 1.0]))
    assert spread.median == pytest.approx(0, abs=1)
    silent = rows.sqnr_spread(np.array([1.0, 1.0, 1.0, 0.0]), np.full(4, 1e-4))
    assert (silent.worst, silent.worst_sample) == (pytest.approx(20), 3)


NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,4] y) <float k = {2.0}> { z = Mul(x, k) %s }"""


def test_compare_names_the_sample_that_suffers():
    # Relu loses negative values: only the sample that has them.
    samples = np.abs(np.random.default_rng(0).standard_normal((30, 4))).astype(np.float32)
    samples[17] *= -1
    fidelity = compare(parse(NET % "y = Identity(z)"), parse(NET % "y = Relu(z)"), samples=samples)
    spread = fidelity.per_sample
    assert (spread.samples, spread.worst_sample) == (30, 17)
    assert spread.worst == pytest.approx(0, abs=1e-6)
    assert spread.median == pytest.approx(300)
    assert spread.is_heavy
    assert "worst sample 17 at" in str(fidelity)
