"""Limits of a budget: met, missed, or undecided with so few samples."""

from __future__ import annotations

import math

import pytest

from onnxlite.errors import OptionError
from onnxlite.search import Budget, Estimate


def check(budget, figure, samples=100):
    name = {
        "max_drop": "drop",
        "min_agreement": "agreement",
        "min_sqnr_db": "sqnr_db",
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
