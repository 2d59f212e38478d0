"""Limits of a budget: met, missed, or undecided with so few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxlite.errors import OptionError
from onnxlite.search import Budget, Estimate
from onnxlite.search.estimate import ENOUGH_SAMPLES, decibels, largest_loss, mean_loss, noise_ratio


def check(budget, figure, samples=100):
    name = {
        "max_drop": "drop",
        "min_agreement": "agreement",
        "min_sqnr_db": "sqnr_db",
        "max_error": "max_error",
        "max_bytes": "bytes",
        "max_latency": "latency",
    }[next(iter(budget.limits()))]
    (found,) = budget.compare({name: figure}, samples)
    return found


@pytest.mark.parametrize(
    ("budget", "figure", "verdict", "within"),
    [
        (Budget(max_drop=0.02), Estimate(0.01, 0.0, 0.015), "met", True),
        (Budget(max_drop=0.02), Estimate(0.01, 0.0, 0.03), "undecided", True),
        (Budget(max_drop=0.02), Estimate(0.025, 0.01, 0.04), "undecided", False),
        (Budget(max_drop=0.02), Estimate(0.05, 0.03, 0.07), "missed", False),
        (Budget(max_drop=0.01), Estimate(0.93 - 0.92), "met", True),  # 0.010000000000000009
        (Budget(min_agreement=0.9), Estimate(0.95, 0.92, 0.97), "met", True),
        (Budget(min_agreement=0.9), Estimate(0.91, 0.85, 0.95), "undecided", True),
        (Budget(min_agreement=0.9), Estimate(0.7, 0.6, 0.8), "missed", False),
        (Budget(min_sqnr_db=20), Estimate(math.inf, math.inf, math.inf), "met", True),
        (Budget(max_bytes=1000), Estimate(1001.0), "missed", False),
        (Budget(max_latency=0.5), Estimate(0.5, 0.4, 0.6), "undecided", True),
    ],
)
def test_verdicts(budget, figure, verdict, within):
    found = check(budget, figure)
    assert (found.verdict, found.within) == (verdict, within)
    assert budget.accepts((found,)) is within
    certain = Budget(**{**budget.limits(), "certain": True}) if not budget.max_bytes else budget
    assert certain.accepts((found,)) is (verdict == "met")


def test_number_of_samples_that_would_decide():
    found = check(Budget(max_drop=0.02), Estimate(0.01, 0.0, 0.04), samples=100)
    # The upper end, 0.03 away, has to come as near as the bound, 0.01: nine times the samples.
    assert found.samples_needed == 900
    assert "900 samples" in str(found)
    assert check(Budget(max_drop=0.02), Estimate(0.01, 0.0, 0.015)).samples_needed is None
    assert check(Budget(max_latency=0.5), Estimate(0.5, 0.4, 0.6)).samples_needed is None
    on_the_line = check(Budget(max_drop=0.02), Estimate(0.02, 0.0, 0.04))
    assert on_the_line.samples_needed is None


def losses(count, worst=None):
    values = np.linspace(0.5e-3, 1.5e-3, count)
    values[-1] = values[-1] if worst is None else worst
    return values


def test_few_samples_leave_a_limit_undecided_that_their_interval_keeps():
    figure = mean_loss(losses(24), confidence=0.95, largest=1.0)
    found = check(Budget(max_drop=0.01), figure, samples=24)
    assert figure.high < 0.002
    assert (found.verdict, found.within, found.is_likely) == ("undecided", True, True)
    assert "24 samples show no more than 0.001" in str(found)
    assert found.samples_needed == ENOUGH_SAMPLES
    assert Budget(max_drop=0.01).accepts((found,))
    assert not Budget(max_drop=0.01, certain=True).accepts((found,))
    # A limit inside of the interval needs no further reason.
    inside = check(Budget(max_drop=(figure.value + figure.high) / 2), figure, samples=24)
    assert (inside.verdict, inside.doubt) == ("undecided", None)
    # Even if 1 in 9 loses everything, a quarter is not lost.
    assert check(Budget(max_drop=0.25), figure, samples=24).verdict == "met"
    # What is lost already is certain.
    assert check(Budget(max_drop=1e-4), figure, samples=24).verdict == "missed"


def test_many_samples_decide_unless_one_of_them_carries_the_loss():
    light = mean_loss(losses(400), confidence=0.95, largest=1.0)
    assert check(Budget(max_drop=0.005), light, samples=400).verdict == "met"
    heavy = mean_loss(losses(400, worst=0.2), confidence=0.95, largest=1.0)
    found = check(Budget(max_drop=0.007), heavy, samples=400)
    assert heavy.high < 0.007
    assert found.verdict == "undecided"
    assert "sample 399" in found.doubt
    # 400 samples of which others may lose all leave 0.9 points open; the limit is 0.55 away.
    assert 400 < found.samples_needed < 1200
    assert check(Budget(max_drop=0.02), heavy, samples=400).verdict == "met"


def test_samples_needed_are_counted_on_the_scale_of_the_noise():
    signal = np.ones(24)
    figure = decibels(noise_ratio(signal, losses(24), confidence=0.95))
    found = check(Budget(min_sqnr_db=20), figure, samples=24)
    assert found.verdict == "undecided"
    assert "24 samples show no less than 2" in found.doubt
    assert found.samples_needed == ENOUGH_SAMPLES
    assert check(Budget(min_sqnr_db=10), figure, samples=24).samples_needed < ENOUGH_SAMPLES
    assert check(Budget(min_sqnr_db=5), figure, samples=24).verdict == "met"


def test_the_largest_error_of_few_samples_is_undecided_or_missed():
    few = largest_loss(np.array([0.1, 0.3, 0.2]))
    assert check(Budget(max_error=0.2), few, samples=3).verdict == "missed"
    found = check(Budget(max_error=0.5), few, samples=3)
    assert (found.verdict, found.within, found.is_likely) == ("undecided", True, True)
    many = largest_loss(np.linspace(0.1, 0.3, 400))
    assert check(Budget(max_error=0.5), many, samples=400).verdict == "met"


def test_one_sample_decides_nothing():
    figure = mean_loss(np.array([1e-3]), confidence=0.95, largest=1.0)
    assert check(Budget(max_drop=0.01), figure, samples=1).verdict == "undecided"
    unbounded = mean_loss(np.array([1e-3]), confidence=0.95)
    assert check(Budget(max_drop=0.01), unbounded, samples=1).samples_needed == ENOUGH_SAMPLES


def test_limits_on_quality_and_on_cost():
    assert Budget(max_drop=0.01, max_bytes=10).limits() == {"max_drop": 0.01, "max_bytes": 10.0}
    assert Budget(max_drop=0.01).limits_quality
    assert not Budget(max_latency=0.5, max_bytes=10).limits_quality


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"max_drop": -0.1}, "max_drop"),
        ({"max_drop": 2.0}, "max_drop"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"min_sqnr_db": math.nan}, "min_sqnr_db"),
        ({"max_latency": "fast"}, "max_latency"),
    ],
)
def test_a_wrong_limit_is_refused(fields, word):
    with pytest.raises(OptionError, match=word):
        Budget(**fields)


def test_a_limit_without_a_figure_is_an_error():
    with pytest.raises(OptionError, match="min_cosine cannot be checked"):
        Budget(min_cosine=0.9).compare({"drop": Estimate(0.0)}, 10)
