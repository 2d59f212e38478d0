"""Confidence intervals: published values and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxlite.search import estimate


def test_proportion_against_published_values():
    # Newcombe 1998, table I, method 3 (score): 81 of 263, and 0 of 20.
    found = estimate.proportion(81, 263, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    none = estimate.proportion(0, 20, confidence=0.95)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 0.1611), abs=1e-4)


def test_a_perfect_score_on_few_samples_proves_little():
    assert estimate.proportion(50, 50, confidence=0.95).low < 0.93
    same = np.ones(50)
    assert estimate.paired_drop(same, same, confidence=0.95).high > 0.02
    many = np.ones(5000)
    assert estimate.paired_drop(many, many, confidence=0.95).high < 0.001


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
    assert 0.92 <= inside / 400 <= 0.99


def test_paired_answers_tell_more_than_separate_ones():
    right = np.array([1.0] * 900 + [0.0] * 100)
    other = right.copy()
    other[:5] = 0
    found = estimate.paired_drop(right, other, confidence=0.95)
    assert found.value == 0.005
    assert found.high - found.low < 0.012  # of two separate samples it would be 0.05


def test_means_and_noise():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = estimate.mean(values, confidence=0.95)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    signal = np.full(100, 100.0)
    noise = estimate.noise_ratio(signal, np.full(100, 1.0), confidence=0.95)
    assert (noise.value, noise.low, noise.high) == pytest.approx((0.01, 0.01, 0.01))
    assert estimate.decibels(noise).value == pytest.approx(20)
    spread = estimate.noise_ratio(signal, np.arange(100.0), confidence=0.95)
    decibels = estimate.decibels(spread)
    assert decibels.low < decibels.value < decibels.high
    assert estimate.decibels(estimate.Estimate(0.0, 0.0, 0.0)).value == math.inf


def test_one_sample_has_no_interval():
    assert estimate.mean(np.array([2.0]), confidence=0.95) == estimate.Estimate(2.0)
    one = np.array([1.0])
    assert estimate.noise_ratio(one, one, confidence=0.95) == estimate.Estimate(1.0)
