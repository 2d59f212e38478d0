"""Codes back into the words that a graph decodes them from.

What the nodes of a decoder do to a word is found by running them: words that are all the same
number show what its digits mean, and words numbered in binary which codes each word holds.
So it does not matter how codes are packed, as long as a word holds digits of base 2 or 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
#: Gives the codes, float32, for the words of each stored tensor.
Decode = Callable[[Sequence[Array]], NDArray[np.float32]]

#: Of the codes that the way back is tried on.
_SEED = 0


@dataclass(frozen=True)
class _Digit:
    """One place of the words of one tensor: its unit, and how often that may be added."""

    tensor: int
    unit: int
    times: int
    weight: float


class CodePacking:
    """The way back from codes to words.

    Args:
        decode: runs the decoder.
        stored: the present words, one array per tensor that codes are computed from.

    Raises:
        ValueError: words that this decoder reads in a way of its own.
    """

    def __init__(self, decode: Decode, stored: Sequence[Array]) -> None:
        self._decode = decode
        self._forms = [(array.shape, array.dtype) for array in stored]
        codes = decode(stored)
        self._plain = len(stored) == 1 and np.array_equal(stored[0], codes)
        if self._plain:
            return
        if any(dtype.kind != "u" for _, dtype in self._forms):
            raise ValueError("words are signed")
        self._base = decode(self._filled(0, 0))
        rng = np.random.default_rng(_SEED)
        trial = rng.integers(int(codes.min()), int(codes.max()) + 1, codes.shape)
        for radix in (2, 3):
            self._digits = self._found(radix)
            self._owners = [self._owner(index) for index in range(len(stored))]
            if all(np.array_equal(decode(self.encode(c)), c) for c in (codes, trial)):
                return
        raise ValueError("digits are of another base than 2 or 3")

    def encode(self, codes: Array) -> list[Array]:
        """The words that are decoded to `codes`, in the types and shapes of those stored."""
        if self._plain:
            shape, dtype = self._forms[0]
            return [codes.reshape(shape).astype(dtype)]
        words = self._filled(0, 0)
        left = codes.astype(np.float32) - self._base
        for digit in self._digits:
            worth = self._decode(self._filled(digit.tensor, digit.unit)) - self._base
            flat = words[digit.tensor].reshape(-1)
            for _ in range(digit.times):
                taken = (worth > 0) & (left >= worth)
                left = np.where(taken, left - worth, left)
                flat[self._owners[digit.tensor][taken]] += flat.dtype.type(digit.unit)
        return words

    def _filled(self, tensor: int, number: int) -> list[Array]:
        """All words 0, those of one tensor a number."""
        filled = [np.zeros(shape, dtype) for shape, dtype in self._forms]
        filled[tensor][...] = number
        return filled

    def _found(self, radix: int) -> list[_Digit]:
        """Digits of all tensors, those that weigh most in a code first."""

        def each() -> Iterator[_Digit]:
            for tensor, (_, dtype) in enumerate(self._forms):
                unit = 1
                while unit * radix - 1 <= np.iinfo(dtype).max:
                    worth = self._decode(self._filled(tensor, unit)) - self._base
                    if (worth > 0).any():
                        yield _Digit(tensor, unit, radix - 1, float(worth.max()))
                    unit *= radix

        return sorted(each(), key=lambda digit: -digit.weight)

    def _owner(self, tensor: int) -> NDArray[np.int64]:
        """For each code the index of the word of a tensor that it is in."""
        digits = [digit for digit in self._digits if digit.tensor == tensor]
        full = sum(digit.unit * digit.times for digit in digits)
        count = int(np.prod(self._forms[tensor][0]))
        owner = np.zeros(self._base.shape, np.int64)
        for bit in range(max(0, count - 1).bit_length()):
            words = self._filled(tensor, 0)
            words[tensor].reshape(-1)[(np.arange(count) >> bit) % 2 == 1] = full
            owner |= (self._decode(words) != self._base).astype(np.int64) << bit
        return owner
