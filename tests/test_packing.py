"""The format of packed words is found from the words and the codes in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlite.packing import BITS, Bits, matching_formats, pack, weight_type


@given(
    bits=st.sampled_from(BITS),
    count=st.integers(1, 200),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, -1.0, -128.0]),
)
def test_every_format_is_found(bits: Bits, count: int, seed: int, offset: float) -> None:
    kind = weight_type(bits)
    codes = np.random.default_rng(seed).integers(0, kind.levels, count).astype(np.uint8)
    found = list(matching_formats(pack(kind, codes), codes + offset))
    assert (kind, offset) in found
    for other, shift in found:
        for words, packed in zip(pack(kind, codes), pack(other, codes), strict=True):
            assert words.size == packed.size
        assert shift == offset or count < 21


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_words_of_another_format_match_none(dtype: type) -> None:
    words = np.arange(12, dtype=dtype)
    interleaved = np.stack([words & 15, words >> 4], -1)
    assert not list(matching_formats([words], interleaved))
