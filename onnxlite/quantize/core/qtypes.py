"""Quantized types and their parameters as data, and quantization in NumPy.

    q = saturate(round(x / scale) + zero_point)        x ~ (q - zero_point) * scale

with rounding half to even, as the ONNX operators do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.calibrate import Range


@dataclass(frozen=True)
class QType:
    """An integer type: its width, sign, and whether the zero point is fixed in the middle."""

    bits: int
    signed: bool
    symmetric: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of its integers."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(1, self.bits // 8)}")

    @property
    def qmin(self) -> int:
        """Smallest integer; a symmetric signed type leaves out the one without a partner."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def qmax(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - (1 if self.signed else 0))) - 1


UINT8 = QType(8, signed=False, symmetric=False)
UINT16 = QType(16, signed=False, symmetric=False)
INT8 = QType(8, signed=True, symmetric=True)


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of one tensor, or of each slice along `axis`.

    Attributes:
        qtype: the integer type.
        scale: `float32[]` or `float32[channels]`, positive.
        zero_point: of the type's dtype, shaped like `scale`.
        axis: the channel axis, or None for one scale.
    """

    qtype: QType
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None = None

    @property
    def represented(self) -> Range:
        """Real numbers that the integers of a per-tensor type cover."""
        scale, zero = float(self.scale), int(self.zero_point)
        return Range((self.qtype.qmin - zero) * scale, (self.qtype.qmax - zero) * scale)


def params_for_range(qtype: QType, seen: Range) -> QParams:
    """Per-tensor parameters that cover `seen` and represent zero exactly.

    Zero must be exact because padding inserts it. A range of zero width gets scale 1.
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if qtype.symmetric:
        bound = max(-low, high)
        scale, zero = (bound / qtype.qmax if bound else 1.0), 0
    else:
        scale = (high - low) / (qtype.qmax - qtype.qmin) or 1.0
        scale = max(scale, float(np.finfo(np.float32).tiny))
        zero = int(np.clip(round(qtype.qmin - low / scale), qtype.qmin, qtype.qmax))
    return QParams(qtype, np.array(scale, np.float32), np.array(zero, qtype.dtype))


def params_for_weight(qtype: QType, weight: NDArray[Any], axis: int | None) -> QParams:
    """Symmetric parameters of a weight by its largest magnitude, per channel along `axis`.

    A channel of zeros gets scale 1, which represents it exactly.
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    bound = np.abs(weight).max(axis=others, initial=0.0).astype(np.float32)
    scale = positive_scale(bound / np.float32(qtype.qmax))
    return QParams(qtype, scale, np.zeros(scale.shape, qtype.dtype), axis)


def positive_scale(scale: NDArray[Any]) -> NDArray[np.float32]:
    """Scales in float32: 1 for what that has no normal number for, and so rounds to zero."""
    return np.where(scale > np.finfo(np.float32).tiny, scale, 1).astype(np.float32)


def quantize(array: NDArray[Any], params: QParams) -> NDArray[Any]:
    """Turn real numbers into integers of the type's dtype."""
    scale, zero = _broadcast(params, array.ndim)
    q = np.rint(array / scale) + zero
    return np.clip(q, params.qtype.qmin, params.qtype.qmax).astype(params.qtype.dtype)


def dequantize(q: NDArray[Any], params: QParams) -> NDArray[np.float32]:
    """Turn integers into the `float32` numbers that they stand for."""
    scale, zero = _broadcast(params, q.ndim)
    return ((q.astype(np.float32) - zero) * scale).astype(np.float32)


def _broadcast(params: QParams, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    shape = [1] * rank
    if params.axis is not None:
        shape[params.axis] = -1
        return params.scale.reshape(shape), params.zero_point.astype(np.float32).reshape(shape)
    return params.scale, params.zero_point.astype(np.float32)
