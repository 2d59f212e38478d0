"""Figures of one output: against direct formulas, and independent of the cut into feeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.evaluate import Meter, OutputFidelity


def figures(reference: NDArray[Any], candidate: NDArray[Any], *cuts: int) -> OutputFidelity:
    meter = Meter("y")
    for ref, cand in zip(np.split(reference, cuts), np.split(candidate, cuts), strict=True):
        meter.update(ref, cand)
    return meter.result()


def noisy(shape: tuple[int, ...], seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(shape).astype(np.float32)
    return reference, (reference + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def test_against_direct_formulas() -> None:
    reference, candidate = noisy((50, 7))
    ref, cand = reference.astype(np.float64), candidate.astype(np.float64)
    row = figures(reference, candidate)
    noise = ((ref - cand) ** 2).sum()
    assert row.sqnr_db == pytest.approx(10 * np.log10((ref**2).sum() / noise))
    assert row.max_abs == pytest.approx(np.abs(ref - cand).max())
    assert row.mean_abs == pytest.approx(np.abs(ref - cand).mean())
    assert row.peak == pytest.approx(np.abs(ref).max())
    norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(cand, axis=1)
    assert row.cosine == pytest.approx(((ref * cand).sum(axis=1) / norms).mean())
    assert row.agreement == (ref.argmax(1) == cand.argmax(1)).mean()
    assert (row.values, row.dtype, row.equal, row.broken) == (350, "float32", 0.0, 0)


def test_identical_outputs_have_no_noise() -> None:
    reference, _ = noisy((4, 5, 2))
    row = figures(reference, reference.copy())
    assert row.sqnr_db is None
    assert (row.equal, row.max_abs, row.cosine, row.agreement) == (1.0, 0.0, 1.0, None)


def test_new_nan_is_broken_and_an_old_one_is_equal() -> None:
    reference = np.array([[1.0, np.nan, 3.0, np.inf]], np.float32)
    same = figures(reference, reference.copy())
    assert (same.broken, same.equal, same.sqnr_db) == (0, 1.0, None)
    worse = figures(reference, np.array([[1.0, np.nan, np.nan, 2.0]], np.float32))
    assert (worse.broken, worse.equal, worse.sqnr_db, worse.max_abs) == (2, 0.5, None, 0.0)


def test_zero_vectors_point_the_same_way() -> None:
    reference = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    candidate = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], np.float32)
    assert figures(reference, candidate).cosine == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])),
        (np.array([True, False, True, True]), np.array([True, True, True, True])),
        (np.array(["a", "b", "c", "d"], object), np.array(["a", "b", "x", "d"], object)),
    ],
)
def test_exact_types_only_count_what_is_equal(
    reference: NDArray[Any], candidate: NDArray[Any]
) -> None:
    row = figures(reference, candidate)
    assert row.equal == 0.75
    assert (row.sqnr_db, row.max_abs, row.cosine, row.agreement) == (None, None, None, None)


def test_float16_against_float32() -> None:
    reference = np.array([[1.0, 2.0]], np.float32)
    assert figures(reference, reference.astype(np.float16)).equal == 1.0


def test_scalars_and_empty_outputs() -> None:
    meter = Meter("y")
    meter.update(np.float32(2.0) * np.ones(()), np.float32(1.0) * np.ones(()))
    meter.update(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    row = meter.result()
    assert (row.values, row.max_abs) == (1, 1.0)
    assert row.sqnr_db == pytest.approx(10 * math.log10(4))


def test_another_shape_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"'y' is \[2, 2\].*\[2, 3\]"):
        Meter("y").update(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(VerificationError, match="do not compute the same"):
        Meter("y").update(np.ones(3), np.ones(3, np.int64))


arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
    elements=st.floats(-1e3, 1e3, width=32) | st.sampled_from([np.nan, np.inf, 0.0]),
)


@settings(max_examples=60, deadline=None)
@given(reference=arrays, data=st.data())
def test_streamed_is_whole(reference: NDArray[Any], data: st.DataObject) -> None:
    shift = data.draw(hnp.arrays(np.float32, reference.shape, elements=st.floats(-1, 1, width=32)))
    candidate = (reference + shift).astype(np.float32)
    rows = len(reference)
    cuts = sorted(data.draw(st.sets(st.integers(0, rows), max_size=rows)))
    whole, streamed = figures(reference, candidate), figures(reference, candidate, *cuts)
    for field in whole.__struct_fields__:
        expected, got = getattr(whole, field), getattr(streamed, field)
        if isinstance(expected, float):
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12), field
        else:
            assert got == expected, field
