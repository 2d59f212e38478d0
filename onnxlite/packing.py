"""Formats of packed weights: the levels of each width, and codes into words and back.

A weight is `(code - zero) * scale` with a whole code from 0 to `levels - 1`. Ternary weights
have three levels, binary ones two; both are symmetric about zero.

A field of f bits: word j holds the codes j, j + n, j + 2n, ... of n words, lowest bits first,
so that a shift by a column of amounts gives all codes in order. Words are bytes; for 3 bits they
have 8 bytes. Five trits make a byte in base 3 in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError

#: The widths that a caller may ask for.
Bits: TypeAlias = Literal[8, 6, 5, 4, 3, 2, "ternary", "binary"]
BITS: tuple[Bits, ...] = get_args(Bits)

#: Trits in a byte: 3^5 = 243.
TRITS = 5


@dataclass(frozen=True)
class WeightType:
    """A set of levels.

    Attributes:
        name: as in reports.
        levels: how many codes there are.
        fields: widths in bits of the parts that a code is cut into, lowest first; empty for
            base 3. Of 1, 2, 4 and 8 bits whole numbers make a byte, of 3 bits 21 an 8-byte word.
        middle: the zero point that makes the levels symmetric. Even numbers of levels but two
            have one more below zero than above.
        free_zero: a zero point per block pays.
    """

    name: str
    levels: int
    fields: tuple[int, ...]
    middle: float
    free_zero: bool = False

    @property
    def stored_bits(self) -> float:
        """Bits of one weight on disk."""
        return float(sum(self.fields)) if self.fields else 8 / TRITS


_TYPES: dict[Bits, WeightType] = {
    8: WeightType("8", 256, (8,), 128),
    6: WeightType("6", 64, (4, 2), 32),
    5: WeightType("5", 32, (4, 1), 16),
    4: WeightType("4", 16, (4,), 8, free_zero=True),
    3: WeightType("3", 8, (3,), 4, free_zero=True),
    2: WeightType("2", 4, (2,), 2, free_zero=True),
    "ternary": WeightType("ternary", 3, (), 1),
    "binary": WeightType("binary", 2, (1,), 0.5),
}


def weight_type(bits: Bits) -> WeightType:
    """The type of a width.

    Raises:
        OptionError: there is none.
    """
    try:
        return _TYPES[bits]
    except (KeyError, TypeError):
        known = ", ".join(map(repr, BITS))
        raise OptionError(f"bits={bits!r}: use one of {known}") from None


Codes = NDArray[np.uint8]
Words = NDArray[Any]


def word_type(field: int) -> np.dtype[Any]:
    """The unsigned type of a word."""
    return np.dtype(np.uint64 if 8 % field else np.uint8)


def per_word(field: int) -> int:
    """Number of codes of a field width in one word."""
    return 8 * word_type(field).itemsize // field


def packed_bytes(kind: WeightType, count: int) -> int:
    """Bytes of `count` packed codes."""
    if not kind.fields:
        return -(-count // TRITS)
    words = ((-(-count // per_word(field)), word_type(field)) for field in kind.fields)
    return sum(number * word.itemsize for number, word in words)


def pack(kind: WeightType, codes: Codes) -> tuple[Words, ...]:
    """One array of words `[1, n]` per field, or one of trits."""
    flat = codes.reshape(-1)
    if not kind.fields:
        weights = (3 ** np.arange(TRITS)).astype(np.uint8)[:, None]
        return ((_columns(flat, TRITS) * weights).sum(axis=0, dtype=np.uint8)[None],)
    parts = []
    below = 0
    for field in kind.fields:
        part = (flat >> np.uint8(below)) & np.uint8((1 << field) - 1)
        word = word_type(field)
        rows = _columns(part, per_word(field))
        packed = np.zeros((1, rows.shape[1]), word)
        for place, row in enumerate(rows):
            packed[0] |= row.astype(word) << word.type(place * field)
        parts.append(packed)
        below += field
    return tuple(parts)


def unpack(kind: WeightType, packed: tuple[Words, ...], count: int) -> Codes:
    """The first `count` codes, flat: the inverse of `pack`."""
    if not kind.fields:
        powers = (3 ** np.arange(TRITS))[:, None]
        trits: Any = packed[0].astype(np.int32) // powers % 3
        return np.asarray(trits.reshape(-1)[:count], np.uint8)
    codes = np.zeros(count, np.uint8)
    below = 0
    for field, part in zip(kind.fields, packed, strict=True):
        word = word_type(field)
        shifts = (np.arange(per_word(field)) * field).astype(word)[:, None]
        rows = ((part >> shifts) & word.type((1 << field) - 1)).astype(np.uint8)
        codes |= rows.reshape(-1)[:count] << np.uint8(below)
        below += field
    return codes


def pack_rows(codes: Codes, bits: int) -> Codes:
    """Pack rows as ONNX Runtime's kernels read them: neighbours in one byte, lowest bits first.

    Args:
        codes: uint8[rows, n]; the last byte of a row is filled up with zeros.
        bits: 1, 2, 4 or 8 per code.
    """
    per = 8 // bits
    short = -codes.shape[1] % per
    filled = np.pad(codes, ((0, 0), (0, short))) if short else codes
    packed = np.zeros((len(codes), filled.shape[1] // per), np.uint8)
    for place in range(per):
        packed |= filled[:, place::per] << np.uint8(place * bits)
    return packed


def matching_formats(
    words: Sequence[Words], codes: NDArray[Any]
) -> Iterator[tuple[WeightType, float]]:
    """Yield the formats in which words hold some codes, each with the codes' offset.

    Few words may match several formats.

    Args:
        words: one array per field, as `pack` gives them, of any shape.
        codes: the decoded numbers: the codes plus the offset.
    """
    flat = codes.reshape(-1)
    found = [(word.size, word.dtype) for word in words]
    for kind in _TYPES.values():
        if found != _word_forms(kind, flat.size):
            continue
        unpacked = unpack(kind, tuple(word.reshape(1, -1) for word in words), flat.size)
        offset = float(flat[0]) - float(unpacked[0])
        if np.array_equal(flat, unpacked + offset):
            yield kind, offset


def _word_forms(kind: WeightType, count: int) -> list[tuple[int, np.dtype[Any]]]:
    """Number and type of the words of every field that `count` codes are packed into."""
    if not kind.fields:
        return [(-(-count // TRITS), np.dtype(np.uint8))]
    return [(-(-count // per_word(field)), word_type(field)) for field in kind.fields]


def _columns(flat: Codes, rows: int) -> Codes:
    """The codes as `[rows, n]`, filled up with zeros."""
    n = -(-flat.size // rows)
    filled = np.zeros(rows * n, np.uint8)
    filled[: flat.size] = flat
    return filled.reshape(rows, n)
