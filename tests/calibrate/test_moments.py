"""Second moments: the same however the rows are split, and enough for every error."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate.moments import Moments


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 3, 5)) + 40
    y = x @ rng.standard_normal((3, 5, 2)).mean(0) + rng.standard_normal((90, 3, 2))
    return x, y


def test_merging_shards_gives_the_moments_of_all_rows(rows):
    x, y = rows
    whole = Moments.of(x, y)
    merged = Moments.of(x[:7], y[:7]).merge(Moments.of(x[7:60], y[7:60]))
    merged = merged.merge(Moments.of(x[60:], y[60:]))
    assert merged.rows == 90
    for name in ("mean_x", "mean_y", "gram", "cross", "power"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-10)


def test_they_are_covariances(rows):
    x, y = rows
    both = np.concatenate([x[:, 1], y[:, 1]], axis=1)
    covariance = np.cov(both.T) * 89
    moments = Moments.of(x, y)
    np.testing.assert_allclose(moments.gram[1], covariance[:5, :5], rtol=1e-9)
    np.testing.assert_allclose(moments.cross[1], covariance[:5, 5:], rtol=1e-9)
    np.testing.assert_allclose(moments.power[1], np.diag(covariance)[5:], rtol=1e-9)


def test_raw_moments(rows):
    x, y = rows
    raw = Moments.of(x, y).about_zero()
    np.testing.assert_allclose(raw.gram[2], x[:, 2].T @ x[:, 2], rtol=1e-10)
    np.testing.assert_allclose(raw.cross[2], x[:, 2].T @ y[:, 2], rtol=1e-10)
    assert not raw.mean_x.any()


def test_error_of_any_weight_without_the_rows(rows):
    x, y = rows
    weight = np.random.default_rng(1).standard_normal((3, 5, 2))
    moments = Moments.of(x, y)
    residual = y - np.einsum("ngk,gkm->ngm", x, weight) - moments.intercept(weight)
    np.testing.assert_allclose(moments.error(weight), (residual**2).sum(axis=0), rtol=1e-8)


def test_float32_rows_far_from_zero_keep_their_precision(rows):
    x, y = (part + 1000 for part in rows)
    exact = Moments.of(x, y)
    single = Moments.of(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(single.gram, exact.gram, rtol=2e-3, atol=0.2)
