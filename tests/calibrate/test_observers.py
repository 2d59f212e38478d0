"""Each observer against its definition on whole arrays, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxlite.calibrate import (
    OBSERVERS,
    AverageRange,
    Histogram,
    Levels,
    ObserverName,
    Range,
    SampleLimits,
    ValueStatistics,
)

UINT8 = Levels(0, 255, symmetric=False)
INT8 = Levels(-127, 127, symmetric=True)


def seen(values: np.ndarray) -> ValueStatistics:
    """Statistics of rows, one for each sample; of a vector, each number is one."""
    values = values.astype(np.float32)
    whole = Range(float(values.min()), float(values.max()))
    rows = values.reshape(len(values), -1).astype(np.float64)
    limits = SampleLimits.of(rows.min(1), rows.max(1), np.arange(len(rows)), kept=1024)
    return ValueStatistics(whole, AverageRange.of(whole), Histogram.of(values), limits)


def error(values: np.ndarray, chosen: Range, levels: Levels) -> float:
    """Mean squared error in NumPy, element by element."""
    low, high = min(chosen.low, 0.0), max(chosen.high, 0.0)
    if levels.symmetric:
        scale, zero = max(-low, high) / levels.qmax, 0
    else:
        scale = (high - low) / (levels.qmax - levels.qmin)
        zero = round(levels.qmin - low / scale)
    q = np.clip(np.rint(values / scale) + zero, levels.qmin, levels.qmax)
    return float((((q - zero) * scale - values) ** 2).mean())


def heavy(count: int = 40_000) -> np.ndarray:
    return np.random.default_rng(0).standard_t(4, count).astype(np.float32)


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from(sorted(OBSERVERS)),
    st.sampled_from([UINT8, INT8]),
)
def test_never_wider_than_what_was_seen(values, name, levels) -> None:
    statistics = seen(values)
    chosen = OBSERVERS[name](statistics, levels)
    assert statistics.range.low <= chosen.low <= chosen.high or chosen.low <= 0 <= chosen.high
    assert chosen.low >= min(statistics.range.low, 0)
    assert chosen.high <= max(statistics.range.high, 0)


@pytest.mark.parametrize("levels", [UINT8, INT8])
def test_histogram_error_is_the_error_of_the_elements(levels: Levels) -> None:
    values = heavy()
    statistics = seen(values)
    for share in (1.0, 0.7, 0.3):
        chosen = Range(statistics.range.low * share, statistics.range.high * share)
        got = levels.errors(statistics.histogram, np.array([chosen.low]), np.array([chosen.high]))
        assert got[0] == pytest.approx(error(values, chosen, levels), rel=0.03)


@pytest.mark.parametrize("levels", [UINT8, INT8])
def test_mse_is_the_least_on_a_grid(levels: Levels) -> None:
    values = heavy()
    statistics = seen(values)
    chosen = OBSERVERS["mse"](statistics, levels)
    grid = np.linspace(0.3, 1, 15)
    least = min(
        error(values, Range(statistics.range.low * a, statistics.range.high * b), levels)
        for a in grid
        for b in grid
    )
    assert error(values, chosen, levels) <= 1.05 * least
    assert error(values, chosen, levels) < error(values, statistics.range, levels)


def test_limits_are_searched_apart() -> None:
    """Outliers on one side only: the other limit stays where it was."""
    values = np.concatenate([np.random.default_rng(0).uniform(-1, 1, 200_000), [12.0]])
    chosen = OBSERVERS["mse"](seen(values), UINT8)
    assert chosen.low == pytest.approx(-1, abs=0.12)
    assert chosen.high < 10


def test_percentile_leaves_samples_out() -> None:
    """One of a hundred samples is beyond either limit, whatever the number of its elements."""
    rows = np.random.default_rng(0).standard_normal((400, 192))
    rows[17, 5], rows[30, 3] = 1e4, -1e3
    chosen = OBSERVERS["percentile"](seen(rows), UINT8)
    assert chosen.high == pytest.approx(np.sort(rows.max(1))[-5])
    assert chosen.low == pytest.approx(np.sort(rows.min(1))[4])
    few = rows[:99]
    assert OBSERVERS["percentile"](seen(few), UINT8) == seen(few).range


def test_average_is_of_the_feeds() -> None:
    parts = [seen(np.array([-1.0, 2.0])), seen(np.array([-3.0, 8.0]))]
    assert OBSERVERS["moving-average"](parts[0].merge(parts[1]), UINT8) == Range(-2.0, 5.0)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constant_values(name: ObserverName, value: float) -> None:
    chosen = OBSERVERS[name](seen(np.full(100, value)), UINT8)
    assert error(np.full(3, value), chosen, UINT8) < 1e-3 if value else chosen == Range(0, 0)
