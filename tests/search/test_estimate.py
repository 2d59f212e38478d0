"""Confidence intervals: published values and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import intervals
from onnxlite.search import estimate


def test_proportion_against_published_values():
    # Newcombe 1998, table I, method 5 (exact): 81 of 263, and 0 of 20.
    found = estimate.proportion(81, 263, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.2527, 0.3676), abs=1e-4)
    none = estimate.proportion(0, 20, confidence=0.95)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 0.1684), abs=1e-4)
    all_of_them = estimate.proportion(20, 20, confidence=0.95)
    assert (all_of_them.low, all_of_them.high) == pytest.approx((0.8316, 1), abs=1e-4)


@pytest.mark.parametrize("count", [1, 24, 100])
@pytest.mark.parametrize("p", [0.001, 0.01, 0.3, 0.993])
def test_the_interval_of_a_proportion_covers_every_truth(count, p):
    chance = 0.0
    for successes in range(count + 1):
        found = estimate.proportion(successes, count, confidence=0.95)
        if found.low <= p <= found.high:
            chance += math.comb(count, successes) * p**successes * (1 - p) ** (count - successes)
    assert chance >= 0.95


def test_a_perfect_score_on_few_samples_proves_little():
    assert estimate.proportion(50, 50, confidence=0.95).low < 0.93
    same = np.ones(50)
    assert estimate.paired_drop(same, same, confidence=0.95).high > 0.02
    many = np.ones(5000)
    assert estimate.paired_drop(many, many, confidence=0.95).high < 0.001


@pytest.mark.parametrize("lost", [0.0025, 0.005, 0.01, 0.05])
def test_rare_losses_are_within_the_interval_of_a_paired_drop(lost):
    # A few in 400 of 400 samples: most draws show none or one of them.
    rng = np.random.default_rng(0)
    ones = np.ones(400)
    drops = [
        estimate.paired_drop(ones, (rng.random(400) >= lost).astype(float), confidence=0.95)
        for _ in range(200)
    ]
    assert np.mean([drop.low <= lost <= drop.high for drop in drops]) >= 0.93


@pytest.mark.parametrize("count", [100, 1000])
def test_the_interval_of_a_paired_drop_covers_the_truth(count):
    # 3% of answers are lost and 1% won: the true drop is 0.02.
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        reference = (rng.random(count) < 0.9).astype(float)
        turned = rng.random(count)
        candidate = np.where(
            reference > 0, (turned > 0.03 / 0.9).astype(float), (turned < 0.01 / 0.1).astype(float)
        )
        found = estimate.paired_drop(reference, candidate, confidence=0.95)
        inside += found.low <= 0.02 <= found.high
    assert 0.93 <= inside / 400 <= 0.995


def test_paired_answers_tell_more_than_separate_ones():
    right = np.array([1.0] * 900 + [0.0] * 100)
    other = right.copy()
    other[:5] = 0
    found = estimate.paired_drop(right, other, confidence=0.95)
    assert found.value == 0.005
    assert found.high - found.low < 0.012  # of two separate samples it would be 0.05


def test_means_and_noise():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = estimate.mean_loss(values, confidence=0.95)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.35)
    signal = np.full(100, 100.0)
    noise = estimate.noise_ratio(signal, np.full(100, 1.0), confidence=0.95)
    assert (noise.value, noise.low, noise.high) == pytest.approx((0.01, 0.01, 0.01))
    assert estimate.decibels(noise).value == pytest.approx(20)
    spread = estimate.noise_ratio(signal, np.arange(100.0), confidence=0.95)
    decibels = estimate.decibels(spread)
    assert decibels.worst_case <= decibels.low < decibels.value < decibels.high
    assert estimate.decibels(estimate.Estimate(0.0, 0.0, 0.0)).value == math.inf


def test_one_sample_has_no_interval():
    one = np.array([1.0])
    for found in (
        estimate.mean_loss(one, confidence=0.95),
        estimate.noise_ratio(one, one, confidence=0.95),
    ):
        assert (found.value, found.low, found.high) == (1.0, None, None)
        assert not found.is_reliable


def test_an_output_of_zeros_has_finite_estimates():
    zero, some = np.zeros(30), np.ones(30)
    assert estimate.noise_ratio(zero, zero, confidence=0.95).value == 0
    found = estimate.noise_ratio(zero, some, confidence=0.95)
    assert found.value > 1e9
    assert estimate.decibels(found).value < -90


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_losses_of_zero_and_one_get_the_exact_interval_of_a_proportion(lost):
    losses = np.array([1.0] * lost + [0.0] * (40 - lost))
    found = estimate.mean_loss(losses, confidence=0.95, largest=1.0)
    exact = estimate.proportion(lost, 40, confidence=0.95)
    assert found.worst_case == pytest.approx(exact.high, rel=0.08)  # of 1,000 draws
    if lost:
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=0.2)
        assert found.high == found.worst_case


@given(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=30),
    st.floats(1e-3, 1e3),
)
def test_intervals_scale_with_the_losses_and_hold_the_mean(losses, scale):
    values = np.array(losses)
    one = estimate.mean_loss(values, confidence=0.95, largest=1.0)
    assert 0 <= one.low <= one.value <= one.high <= one.worst_case <= 1 + 1e-9
    two = estimate.mean_loss(values * scale, confidence=0.95, largest=scale)
    assert [two.low, two.high, two.worst_case] == pytest.approx(
        [one.low * scale, one.high * scale, one.worst_case * scale], rel=1e-6, abs=1e-12
    )


def test_a_loss_beyond_the_largest_one_has_no_worst_case():
    found = estimate.mean_loss(np.array([0.1, 0.2, 7.0]), confidence=0.95, largest=1.0)
    assert found.worst_case is None
    assert found.high > 7


def test_samples_show_a_lower_end_of_the_largest_loss_alone():
    few = estimate.largest_loss(np.array([0.1, 0.3, 0.2]))
    assert (few.value, few.low, few.high, few.spread.worst_sample) == (0.3, 0.3, None, 1)
    assert not few.is_reliable
    assert estimate.largest_loss(np.linspace(0, 1, 400)).is_reliable


def test_figures_in_other_units_keep_their_samples():
    losses = np.linspace(0.001, 0.01, 40)
    found = estimate.mean_loss(losses, confidence=0.95, largest=1.0)
    cosine = estimate.complement(found)
    assert (cosine.low, cosine.high) == (1 - found.high, 1 - found.low)
    assert cosine.worst_case == 1 - found.worst_case
    assert (cosine.spread.worst, cosine.spread.worst_sample) == (0.99, 39)
    again = estimate.complement(cosine)
    assert again.spread.q95 == pytest.approx(found.spread.q95)
    assert estimate.decibels(found).spread.worst == pytest.approx(20)


@pytest.mark.parametrize("count", intervals.COUNTS)
@pytest.mark.parametrize("name", [*intervals.HEAVY, *intervals.LIGHT])
def test_intervals_cover_the_truth_or_are_not_trusted(name, count):
    noise = {**intervals.HEAVY, **intervals.LIGHT}[name]
    row = intervals.row(name, noise, count, intervals.DRAWS)
    assert row["covers_or_undecided"] >= 0.93
    assert row["worst_case"] >= 0.97
    if name in intervals.LIGHT:
        assert row["covers"] >= 0.93
        if count == 400:
            assert row["undecided_at_twice"] <= 0.02
        if count >= 100:
            assert row["undecided_at_0.05"] == 0
    if name == "log-normal, sigma 3":
        assert row["heavy"] >= 0.9


def test_what_few_samples_show_and_what_they_cannot():
    few = estimate.mean_loss(np.full(24, 6e-8), confidence=0.95, largest=1.0)
    assert not few.is_reliable
    assert few.doubt == "so few can miss what happens to 1 in 9"
    losses = np.full(400, 6e-8)
    losses[17] = 0.12
    heavy = estimate.mean_loss(losses, confidence=0.95, largest=1.0)
    assert "sample 17: 0.12, median 6e-08" in heavy.doubt
    many = estimate.mean_loss(np.linspace(0, 1e-3, 400), confidence=0.95, largest=1.0)
    assert many.is_reliable
    assert many.doubt is None
