"""The numbers a low-bit weight may take, and how many bits each costs on disk.

A weight is `(code - zero) * scale` with a whole code from 0 to `levels - 1`. Ternary weights
have three levels, binary ones two; both are symmetric about zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

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
