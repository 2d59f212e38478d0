"""Limits of float16 and bfloat16, and rounding of float32 tensors to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.fidelity import sqnr_db
from onnxlite.model import unmapped

Array = NDArray[Any]

_LARGEST_BITS = {ir.DataType.FLOAT16: 0x7BFF, ir.DataType.BFLOAT16: 0x7F7F}
#: Below this SQNR most numbers of a tensor are subnormal or zero in 16 bits.
_MIN_SQNR_DB = 40.0


@dataclass(frozen=True)
class HalfRange:
    """Largest number of a 16-bit type, and smallest number above zero."""

    largest: float
    smallest: float


def half_range(dtype: ir.DataType) -> HalfRange:
    """Return the range of FLOAT16 (65504, 2^-24) or BFLOAT16 (as float32)."""
    kind = dtype.numpy()
    # The bit patterns of the largest finite number and of the smallest above zero.
    largest, smallest = np.array([_LARGEST_BITS[dtype], 1], np.uint16).view(kind).astype(float)
    return HalfRange(float(largest), float(smallest))


def half_array(array: Array, dtype: ir.DataType) -> Array:
    """Round float32 to the nearest 16-bit numbers; finite numbers stay finite.

    Numbers beyond the range are clamped. A nonzero scalar does not become zero, because such
    scalars often prevent a division by zero or a logarithm of zero.
    """
    limit = half_range(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = array.astype(dtype.numpy())
        over = np.isinf(rounded) & np.isfinite(array)
        if over.any():
            rounded[over] = np.copysign(limit.largest, array[over]).astype(dtype.numpy())
        if array.size == 1 and array.any() and not rounded.astype(np.float32).any():
            rounded = np.copysign(limit.smallest, array).astype(dtype.numpy())
    return rounded


def half_tensor(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """Round a float32 tensor to 16 bits; a tensor on disk is rounded on access."""

    def build() -> ir.TensorProtocol:
        array = half_array(unmapped(tensor).numpy(), dtype)
        return ir.Tensor(array, dtype=dtype, name=tensor.name)

    if isinstance(tensor, ir.ExternalTensor | ir.LazyTensor):
        return ir.LazyTensor(build, dtype, tensor.shape, name=tensor.name)
    return build()


@dataclass(frozen=True)
class Rounding:
    """Rounding of a float32 tensor to 16 bits.

    Attributes:
        clamped: number of finite numbers beyond the range.
        lifted: the tensor is a scalar that would become zero.
        sqnr_db: signal to rounding noise in dB; infinite without an error.
    """

    clamped: int
    lifted: bool
    sqnr_db: float

    @property
    def faithful(self) -> bool:
        """True if 16 bits represent the tensor with little error."""
        return not self.fault

    @property
    def fault(self) -> str:
        """Error of 16 bits that is too large, or nothing."""
        if self.clamped:
            return f"{self.clamped} elements are out of range"
        return "" if self.sqnr_db >= _MIN_SQNR_DB else f"it has {self.sqnr_db:.0f} dB in 16 bits"


def rounding(tensor: ir.TensorProtocol, dtype: ir.DataType) -> Rounding:
    """Measure the rounding of a tensor; a tensor on disk is not kept in memory."""
    array = unmapped(tensor).numpy().reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = array.astype(dtype.numpy()).astype(np.float32)
        clamped = int((np.isinf(rounded) & np.isfinite(array)).sum())
        lifted = bool(array.size == 1 and array.any() and not rounded.any())
        noise = np.subtract(rounded, array, out=rounded)
        noise[~np.isfinite(noise)] = 0
        finite = array if np.isfinite(array).all() else np.where(np.isfinite(array), array, 0)
        scale = float(np.abs(finite).max(initial=0.0))
        if scale == 0:
            return Rounding(clamped, lifted, np.inf)
        # Scale first: squares of numbers near the limits of float32 overflow or underflow.
        power = float(np.square(finite / scale).sum(dtype=np.float64))
        lost = float(np.square(noise / scale).sum(dtype=np.float64))
    return Rounding(clamped, lifted, sqnr_db(power, lost))
