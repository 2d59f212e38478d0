"""Zeros chosen and made up for by second moments: exact shares, patterns, and a lower error."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.calibrate.moments import Moments
from onnxlite.repair.factor import Factor
from onnxlite.repair.mask import Mask, Masker


def moments(
    groups: int = 1, features: int = 24, outputs: int = 6, *, rows: int = 600
) -> tuple[Moments, np.ndarray]:
    """Features that have much in common, and a weight that gives the wanted outputs."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((rows, groups, features // 3))
    x = mixed @ rng.standard_normal((features // 3, features)) / 3
    x += 0.3 * rng.standard_normal(x.shape)
    weight = rng.standard_normal((groups, features, outputs))
    return Moments.of(x, np.einsum("ngk,gkm->ngm", x, weight)), weight


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_every_way_has_the_share_of_zeros(groups: int, share: float) -> None:
    found, weight = moments(groups)
    for way, scale in Masker(found, Mask(sparsity=share)).ways(weight):
        assert (way == 0).sum() >= round(share * way.size)
        assert (way == 0).mean() < share + 0.06
        assert (scale == 1).all()


def test_compensation_beats_the_smallest_weights() -> None:
    found, weight = moments()
    mask = Mask(sparsity=0.5)
    masker = Masker(found, mask)
    smallest = masker.excess(weight, mask.nearest(weight, mask.start_scale(weight)))
    errors = [masker.excess(weight, way) for way, _ in masker.ways(weight)]
    assert max(errors) < 0.5 * smallest
    # Both ways that look ahead do better than a choice by norms, solved for as well.
    assert min(errors[1:]) < errors[0]


def test_what_stays_is_the_least_squares_solution_on_its_support() -> None:
    found, weight = moments(rows=4000)
    for way, _ in Masker(found, Mask(sparsity=0.4)).ways(weight):
        gradient = found.gram @ way - found.cross
        scale = np.abs(found.cross).max()
        assert np.abs(gradient[way != 0]).max() < 0.01 * scale


def test_patterns_hold_in_every_way() -> None:
    found, weight = moments()
    rng = np.random.default_rng(1)
    order = rng.permutation(24)
    mask = Mask(keep=2, block=4, order=order)
    for way, _ in Masker(found, mask).ways(weight):
        blocks = way[:, order].reshape(1, 6, 4, 6)
        assert (np.count_nonzero(blocks, axis=2) <= 2).all()
    smallest = mask.nearest(weight, mask.start_scale(weight))
    assert (np.count_nonzero(smallest[:, order].reshape(1, 6, 4, 6), axis=2) == 2).all()


def test_zeros_stay_zeros() -> None:
    found, weight = moments()
    weight[:, ::3] = 0
    for way, _ in Masker(found, Mask(sparsity=0.5)).ways(weight):
        assert not way[:, ::3].any()
        assert (way == 0).mean() < 0.56


def test_wanda_only_chooses_and_does_so_per_output() -> None:
    found, weight = moments()
    ((way, _),) = Masker(found, Mask(sparsity=0.5, method="wanda")).ways(weight)
    assert ((way == 0) | (way == weight)).all()
    assert (np.count_nonzero(way, axis=1) == 12).all()
    norm = np.sqrt(np.diagonal(found.gram, axis1=1, axis2=2))[..., None]
    score = np.abs(weight) * norm
    for output in range(6):
        kept, gone = way[0, :, output] != 0, way[0, :, output] == 0
        assert score[0, kept, output].min() > 0.99 * score[0, gone, output].max()


def test_scarce_rows_and_dead_features() -> None:
    found, weight = moments(rows=10)
    found.gram[:, 3] = found.gram[:, :, 3] = found.cross[:, 3] = 0
    for way, _ in Masker(found, Mask(sparsity=0.5)).ways(weight):
        assert np.isfinite(way).all()
    assert np.isfinite(Factor(found.gram, 1e-3).solve(found.cross)).all()
