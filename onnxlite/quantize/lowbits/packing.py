"""Codes into bytes and back, in NumPy; `decode.py` writes the way back as ONNX nodes.

A field of f bits: byte j holds the codes j, j + n, j + 2n, ... of n bytes, lowest bits first,
so that a shift by a column of amounts gives all codes in order. Five trits make a byte in
base 3 in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.quantize.lowbits.weight_type import TRITS, WeightType

Codes = NDArray[np.uint8]


def per_byte(field: int) -> int:
    """How many codes of a field width are in one byte."""
    return 8 // field


def packed_bytes(kind: WeightType, count: int) -> int:
    """Bytes of `count` packed codes."""
    if not kind.fields:
        return -(-count // TRITS)
    return sum(-(-count // per_byte(field)) for field in kind.fields)


def pack(kind: WeightType, codes: Codes) -> tuple[Codes, ...]:
    """One byte array `uint8[1, n]` per field, or one of trits."""
    flat = codes.reshape(-1)
    if not kind.fields:
        weights = (3 ** np.arange(TRITS)).astype(np.uint8)[:, None]
        return ((_columns(flat, TRITS) * weights).sum(axis=0, dtype=np.uint8)[None],)
    parts = []
    below = 0
    for field in kind.fields:
        part = (flat >> np.uint8(below)) & np.uint8((1 << field) - 1)
        rows = _columns(part, per_byte(field))
        packed = np.zeros((1, rows.shape[1]), np.uint8)
        for place, row in enumerate(rows):
            packed[0] |= row << (place * field)
        parts.append(packed)
        below += field
    return tuple(parts)


def unpack(kind: WeightType, packed: tuple[Codes, ...], count: int) -> Codes:
    """The first `count` codes, flat: the inverse of `pack`."""
    if not kind.fields:
        powers = (3 ** np.arange(TRITS))[:, None]
        trits: Any = packed[0].astype(np.int32) // powers % 3
        return np.asarray(trits.reshape(-1)[:count], np.uint8)
    codes = np.zeros(count, np.uint8)
    below = 0
    for field, part in zip(kind.fields, packed, strict=True):
        shifts = (np.arange(per_byte(field)) * field).astype(np.uint8)[:, None]
        rows = (part >> shifts) & ((1 << field) - 1)
        codes |= rows.reshape(-1)[:count] << below
        below += field
    return codes


def _columns(flat: Codes, rows: int) -> Codes:
    """The codes as `[rows, n]`, filled up with zeros."""
    n = -(-flat.size // rows)
    filled = np.zeros(rows * n, np.uint8)
    filled[: flat.size] = flat
    return filled.reshape(rows, n)
