"""Words are found that decode to given codes, however these are packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")

from onnxlite.packing import BITS, Bits, pack, unpack, weight_type
from onnxlite.tune.packing import CodePacking


@given(bits=st.sampled_from(BITS), count=st.integers(1, 200), seed=st.integers(0, 99))
def test_words_of_every_packing(bits: Bits, count: int, seed: int):
    kind = weight_type(bits)
    rng = np.random.default_rng(seed)

    def codes() -> NDArray[np.uint8]:
        found = rng.integers(0, kind.levels, count).astype(np.uint8)
        found[:2] = (0, kind.levels - 1)[: len(found[:2])]
        return found

    def decode(words: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        return unpack(kind, tuple(words), count).astype(np.float32)

    words = CodePacking(decode, pack(kind, codes()))
    wanted = codes()
    if count > 1:
        for found, expected in zip(words.encode(wanted), pack(kind, wanted), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_interleaved_nibbles():
    def decode(words: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        (w,) = words
        return np.stack([w & 15, w >> 4], -1).reshape(2, 6).astype(np.float32)

    wanted = np.random.default_rng(0).integers(0, 16, (2, 6))
    words = CodePacking(decode, [np.arange(100, 106, dtype=np.uint8)])
    np.testing.assert_array_equal(decode(words.encode(wanted)), wanted)


def test_another_base_is_refused():
    def decode(words: Sequence[NDArray[np.generic]]) -> NDArray[np.float32]:
        (w,) = words
        return np.stack([w % 5, w // 5 % 5]).astype(np.float32)

    with pytest.raises(ValueError, match="base"):
        CodePacking(decode, [np.arange(25, dtype=np.uint8)])
