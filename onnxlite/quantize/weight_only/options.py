"""Options of weight-only quantization, as one record that every phase reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from onnxlite.errors import OptionError
from onnxlite.packing import Bits, weight_type

#: How codes are found.
WeightMethod: TypeAlias = Literal["auto", "rtn", "hqq", "gptq"]
#: What the file holds: packed weights that are decoded at load, or that kernels read.
WeightMode: TypeAlias = Literal["storage", "compute"]
#: The width of the first and the last layer.
Ends: TypeAlias = Literal["auto", "same", "float", 8, 6, 5, 4, 3, 2, "ternary", "binary"]

#: Weights that share a scale where the caller leaves it open: below this many levels the
#: range of a whole channel is too wide.
_BLOCK_SIZE, _FINE_LEVELS = 32, 64
#: Types of so few levels have one scale per channel: a scale per block would weigh as much
#: as half of their codes.
_COARSE_LEVELS = 3


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """The options of `onnxlite.quantize_weights`, which tells what they mean."""

    bits: Bits = 4
    block_size: int | None = None
    method: WeightMethod = "auto"
    mode: WeightMode = "storage"
    ends: Ends = "auto"
    size: float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    threads: int | None = None

    def check(self) -> None:
        """Raise `OptionError` where an option is out of range."""
        weight_type(self.bits)
        if self.block_size is not None and self.block_size < 0:
            raise OptionError(f"block_size={self.block_size}: use 0 (per channel) or more")
        if self.method not in get_args(WeightMethod):
            raise OptionError(f"method={self.method!r}: use one of {get_args(WeightMethod)}")
        if self.mode not in get_args(WeightMode):
            raise OptionError(f"mode={self.mode!r}: use one of {get_args(WeightMode)}")
        if self.size is not None and not 0 < self.size < 1:
            raise OptionError(f"size={self.size}: a share of the model's size, between 0 and 1")
        if self.ends not in get_args(Ends):
            raise OptionError(f"ends={self.ends!r}: use one of {get_args(Ends)}")

    def block_for(self, bits: Bits) -> int:
        """Weights per scale at a width; 0 for one scale per channel."""
        if self.block_size is not None:
            return self.block_size
        if self.size is not None:
            return 0
        levels = weight_type(bits).levels
        return _BLOCK_SIZE if _COARSE_LEVELS < levels < _FINE_LEVELS else 0
