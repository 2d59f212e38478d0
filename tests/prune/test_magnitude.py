"""The radix selection against NumPy's sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxlite.prune.magnitude import kth_magnitude, zeroed

_FLOATS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0])


@given(
    st.lists(arrays(np.float32, st.integers(1, 40), elements=_FLOATS), min_size=1, max_size=4),
    st.data(),
)
def test_agrees_with_sorting(tensors: list[np.ndarray], data: st.DataObject) -> None:
    everything = np.sort(np.abs(np.concatenate(tensors)))
    k = data.draw(st.integers(1, everything.size))
    limit, ties = kth_magnitude(lambda: tensors, k)
    assert limit == everything[k - 1]
    assert ties == k - int((everything < limit).sum())


@given(arrays(np.float32, st.integers(1, 60), elements=_FLOATS), st.data())
def test_zeroes_exactly_as_many_as_asked(array: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, array.size))
    limit, ties = kth_magnitude(lambda: [array], k)
    result = zeroed(array, limit, ties)
    assert (result == 0).sum() == max(k, int((array == 0).sum()))
    kept = result != 0
    assert np.array_equal(result[kept], array[kept])
    if kept.any() and k:
        assert np.abs(array[kept]).min() >= limit


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_widths(dtype: type) -> None:
    array = np.array([0.5, -0.25, 1.0, -2.0], dtype)
    limit, ties = kth_magnitude(lambda: [array], 2)
    assert (limit, ties) == (0.5, 1)
    assert zeroed(array, limit, ties).tolist() == [0.0, 0.0, 1.0, -2.0]
