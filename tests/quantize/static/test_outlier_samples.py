"""Outlier samples and the hold-out, from limits alone; the rules that decide on ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.calibrate import Range, SampleLimits
from onnxlite.holdout import SampleStream, hold_out_candidates
from onnxlite.inputs import InputSpec
from onnxlite.quantize.static.hold_out import settle_hold_out
from onnxlite.quantize.static.outlier_samples import (
    dictated_values,
    outlier_samples,
    range_without,
)
from onnxlite.quantize.static.range_trial import TrialFigures, leaving_out_pays, narrower_holds
from onnxlite.samples import Samples


def stream(count: int) -> SampleStream:
    data = np.zeros((count, 1), np.float32)
    return SampleStream(Samples(data, (InputSpec("x", "float32", ("n", 1)),)))


def limits(highs: np.ndarray, lows: np.ndarray | float = 0.0, **options) -> SampleLimits:
    numbers = np.arange(len(highs))
    return SampleLimits.of(np.broadcast_to(lows, highs.shape), highs, numbers, kept=64, **options)


def ordinary(count: int) -> np.ndarray:
    return 1 + np.random.default_rng(0).random(count)


@pytest.mark.parametrize(
    ("count", "loud", "expected"),
    [
        (256, {17: 40.0}, {17}),
        (256, {17: 40.0, 30: 50.0}, {17, 30}),
        (256, {17: 40.0, 30: 40.0, 31: 41.0}, set()),  # 3 of 256 are more than 1%
        (256, {17: 3.0}, set()),
        (16, {3: 9.0}, {3}),
        (7, {3: 9.0}, set()),
    ],
)
def test_outliers_are_few_and_double_a_range(count, loud, expected) -> None:
    highs = ordinary(count)
    for sample, high in loud.items():
        highs[sample] = high
    assert outlier_samples({"v": limits(highs)}, stream(count)) == expected


def test_both_ends_count_together() -> None:
    highs, lows = ordinary(64), -ordinary(64)
    highs[5], lows[5] = 100, -100
    assert outlier_samples({"v": limits(highs, lows)}, stream(64)) == {5}


def test_no_more_than_one_percent_over_all_values() -> None:
    seen = {}
    for index, sample in enumerate([3, 9, 9, 12]):
        highs = ordinary(64)
        highs[sample] = 100
        seen[f"v{index}"] = limits(highs)
    whole = stream(64)
    assert outlier_samples(seen, whole) == {9}
    assert set(dictated_values(seen, {9}, whole)) == {"v1", "v2"}


def test_values_of_whole_feeds_lose_the_feed_of_an_outlier() -> None:
    seen = SampleLimits.of(np.zeros(2), np.array([50.0, 2.0]), np.array([0, 8]), kept=8, whole=True)
    assert range_without(seen, {3}, stream(16)) == Range(0, 2)
    assert outlier_samples({"v": seen}, stream(16)) == frozenset()


@pytest.mark.parametrize(("count", "expected"), [(31, 0), (32, 4), (128, 8), (4096, 16)])
def test_number_of_samples_held_out(count: int, expected: int) -> None:
    found = hold_out_candidates(stream(count))
    assert len(found) == expected
    assert found == sorted(set(found))


@given(st.integers(32, 200), st.integers(0, 2**32 - 1))
def test_ranges_stay_within_a_tenth_without_the_hold_out(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = {
        name: limits(rng.lognormal(size=count), -rng.lognormal(size=count)) for name in ("a", "b")
    }
    candidates = hold_out_candidates(stream(count))
    held_out = settle_hold_out(candidates, seen)
    assert set(held_out) <= set(candidates)
    for one in seen.values():
        whole, rest = one.without(()), one.without(held_out)
        assert rest.width >= 0.9 * whole.width - 1e-9


def test_only_the_sample_that_a_range_needs_is_given_back() -> None:
    highs = ordinary(64)
    highs[31] = 9
    candidates = hold_out_candidates(stream(64))
    assert 31 in candidates
    assert set(settle_hold_out(candidates, {"v": limits(highs)})) == {*candidates} - {31}


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        ((40, 40), (41, 39.5), True),
        ((40, 40), (41, 38), False),
        ((40, 40), (40.1, 40), False),
        ((40, math.inf), (41, math.inf), True),
        ((40, 40), (math.nan, 40), False),
    ],
)
def test_narrower_ranges_must_cost_rare_samples_no_more_than_others_gain(
    before, after, holds
) -> None:
    assert narrower_holds(TrialFigures(*before), TrialFigures(*after)) is holds


@pytest.mark.parametrize(
    ("before", "after", "pays"),
    [
        ((0, 36), (35, 0), True),
        ((24, 36), (26, 0), False),
        ((30, 36), (50, 0), False),
        ((30, 36), (50, 30), True),
    ],
)
def test_an_outlier_is_left_out_where_ordinary_samples_need_it(before, after, pays) -> None:
    assert leaving_out_pays(TrialFigures(*before), TrialFigures(*after)) is pays
