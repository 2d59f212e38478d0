"""Histograms and averages: every way to split and to order the elements gives the same one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxlite.calibrate import AverageRange, Histogram, Range
from onnxlite.calibrate.histogram import BINS

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=floats)


def same(a: Histogram, b: Histogram) -> bool:
    return (a.exponent, a.first, a.counts.tolist()) == (b.exponent, b.first, b.counts.tolist())


@given(arrays, arrays, arrays)
def test_merging_is_exact_in_any_order(a, b, c) -> None:
    whole = Histogram.of(np.concatenate([a, b, c]))
    one, two, three = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    assert same(one.merge(two).merge(three), whole)
    assert same(three.merge(two.merge(one)), whole)


@given(arrays)
def test_every_element_lies_in_its_bin(values) -> None:
    seen = Histogram.of(values)
    assert seen.total == values.size
    assert len(seen.counts) <= BINS
    edges = (seen.first + np.arange(len(seen.counts) + 1)) * np.ldexp(1.0, seen.exponent)
    assert np.array_equal(np.histogram(values.astype(np.float64), edges)[0], seen.counts)


def test_bins_are_fine() -> None:
    values = np.linspace(-3, 5, 10_000, dtype=np.float32)
    assert len(Histogram.of(values).counts) > BINS // 2
    coarse = Histogram.of(values).at_most(100)
    assert 50 <= len(coarse.counts) <= 101
    assert coarse.total == values.size


def test_zero_stands_for_itself() -> None:
    middles, counts = Histogram.of(np.array([0, 0, 0, 4], np.float32)).occupied()
    assert middles[0] == 0
    assert counts.tolist() == [3, 1]


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=floats))
def test_average_of_many_feeds_is_that_of_each(limits) -> None:
    one_by_one = AverageRange.of(Range(limits[0], -limits[0]))
    for limit in limits[1:]:
        one_by_one = one_by_one.merge(AverageRange.of(Range(limit, -limit)))
    assert AverageRange.over(limits, -limits) == one_by_one


@given(st.lists(st.tuples(floats, floats), min_size=2, max_size=9), st.data())
def test_average_is_exact_in_any_order(limits, data) -> None:
    parts = [AverageRange.of(Range(*pair)) for pair in limits]
    cut = data.draw(st.integers(1, len(parts) - 1))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    left, right = parts[cut:], parts[:cut][::-1]
    a, b = left[0], right[0]
    for part in left[1:]:
        a = a.merge(part)
    for part in right[1:]:
        b = b.merge(part)
    assert a.merge(b) == whole
    assert whole.range.low == pytest.approx(np.mean([low for low, _ in limits]), rel=1e-6, abs=1e-6)
