"""How a layer multiplies: from sampled output positions back to the inputs that made them.

Every layer is g independent products `Y[n, g, M] = X[n, g, K] W[g, K, M]`, one row per
output position. A geometry turns the layer's weight into W and back, and picks the rows of
X for some positions out of the layer's input, without unfolding all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_tensor, is_op

Array = NDArray[Any]
#: One index array per axis of the output but the channel axis, all of one length.
Positions = tuple[NDArray[np.intp], ...]


class Geometry(Protocol):
    """What the fit needs to know of a layer's shape."""

    @property
    def channel_axis(self) -> int:
        """The axis of the layer's output that its channels lie along."""
        ...

    def matrix(self, weight: Array) -> Array:
        """The layer's weight as `[g, K, M]`."""
        ...

    def arranged(self, weight: Array) -> Array:
        """Anything shaped like the weight, moved to `[g, K, M]` and not multiplied."""
        ...

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """The positions of the output: its shape without the channel axis."""
        ...

    def tensor(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        ...

    def features(self, data: Array, positions: Positions) -> Array:
        """The inputs `[n, g, K]` that make the output at `positions`."""
        ...

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Whether data of this shape can make an output of these positions."""
        ...


@dataclass(frozen=True)
class Convolution:
    """Conv and ConvTranspose in any number of dimensions; features are (channel, tap).

    Output position o meets the input at `o * stride - pad + tap * dilation`; transposed, at
    `(o + pad - tap * dilation) / stride` where that is a whole number.

    Attributes:
        weight_shape: `[g*M, K/taps, *kernel]`, transposed `[g*K/taps, M, *kernel]`.
        pads: at the start of each axis; None where `auto_pad` decides by the input's size.
        end_pads: at the end of each axis, less the output padding of a transposed one.
    """

    weight_shape: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    end_pads: tuple[int, ...]
    auto_pad: str
    transposed: bool

    @property
    def channel_axis(self) -> int:
        """Channels come second."""
        return 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return self.weight_shape[2:]

    def matrix(self, weight: Array) -> Array:
        """The weight as `[g, K, M]`."""
        return self.arranged(weight)

    def arranged(self, weight: Array) -> Array:
        """The same for anything of the weight's shape."""
        first, second = self.weight_shape[0] // self.groups, self.weight_shape[1]
        split = weight.reshape(self.groups, first, second, prod(self.kernel))
        order = (0, 1, 3, 2) if self.transposed else (0, 2, 3, 1)
        outputs = second if self.transposed else first
        return split.transpose(order).reshape(self.groups, -1, outputs)

    def tensor(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        taps, outputs = prod(self.kernel), matrix.shape[2]
        split = matrix.reshape(self.groups, -1, taps, outputs)
        order = (0, 1, 3, 2) if self.transposed else (0, 3, 1, 2)
        return split.transpose(order).reshape(self.weight_shape)

    def features(self, data: Array, positions: Positions) -> Array:
        """The inputs `[n, g, K]` under the kernel at `positions`, zero in the padding."""
        sample, *spatial = positions
        taps = np.indices(self.kernel).reshape(len(self.kernel), -1)
        valid = np.ones((len(sample), taps.shape[1]), bool)
        index: list[Any] = [sample[:, None], slice(None)]
        for axis, (place, tap, size) in enumerate(zip(spatial, taps, data.shape[2:], strict=True)):
            at, whole = self._meets(place[:, None], tap[None], axis, size)
            valid &= whole & (at >= 0) & (at < size)
            index.append(np.clip(at, 0, size - 1))
        rows: Array = data[tuple(index)]
        rows[~valid] = 0
        split = rows.reshape(len(sample), taps.shape[1], self.groups, -1)
        return split.transpose(0, 2, 3, 1).reshape(len(sample), self.groups, -1)

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Samples and the sizes that follow from stride, padding and kernel."""
        return data[0], *(self._size(axis, size) for axis, size in enumerate(data[2:]))

    def _size(self, axis: int, size: int) -> int:
        stride = self.strides[axis]
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        if self.pads is None:
            return -(-size // stride)
        pads = self.pads[axis] + self.end_pads[axis]
        if self.transposed:
            return stride * (size - 1) + reach - pads
        return (size + pads - reach) // stride + 1

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Samples and number of axes must agree; sizes follow from attributes."""
        return len(grid) == len(data) - 1 == len(self.kernel) + 1 and grid[0] == data[0]

    def _meets(
        self, place: NDArray[np.intp], tap: NDArray[np.intp], axis: int, size: int
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        stride, dilation = self.strides[axis], self.dilations[axis]
        pad = self._pad(axis, size)
        if not self.transposed:
            at = place * stride - pad + tap * dilation
            return at, np.ones(at.shape, bool)
        steps = place + pad - tap * dilation
        return steps // stride, steps % stride == 0

    def _pad(self, axis: int, size: int) -> int:
        if self.pads is not None:
            return self.pads[axis]
        stride = self.strides[axis]
        reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        return total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2


@dataclass(frozen=True)
class Product:
    """MatMul and Gemm with a constant matrix on either side.

    Attributes:
        constant_left: `Y = W X`: channels along the last axis but one.
        weight_transposed: the weight is stored `[M, K]`.
        data_transposed: Gemm's `transA`.
        factor: Gemm's `alpha`, part of the matrix.
    """

    constant_left: bool = False
    weight_transposed: bool = False
    data_transposed: bool = False
    factor: float = 1.0

    @property
    def channel_axis(self) -> int:
        """Channels come last, or last but one."""
        return -2 if self.constant_left else -1

    def matrix(self, weight: Array) -> Array:
        """The weight as `[1, K, M]`."""
        matrix: Array = self.factor * self.arranged(weight)
        return matrix

    def arranged(self, weight: Array) -> Array:
        """The same without the factor, for anything of the weight's shape."""
        matrix: Array = (weight.T if self.weight_transposed else weight)[None]
        return matrix

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Every axis but the features'."""
        swap = self.data_transposed or self.constant_left
        return (*data[:-2], data[-1]) if swap else data[:-1]

    def tensor(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        weight: Array = matrix[0].T if self.weight_transposed else matrix[0]
        return weight / self.factor

    def features(self, data: Array, positions: Positions) -> Array:
        """The rows `[n, 1, K]` of the data."""
        swap = self.data_transposed or self.constant_left
        rows: Array = (np.swapaxes(data, -1, -2) if swap else data)[positions]
        return rows[:, None]

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Every axis but the features' is one of positions."""
        return len(data) > 1 and grid == self.grid(data)


def geometry_of(node: ir.Node, weight_shape: tuple[int, ...]) -> Geometry | str:
    """The geometry of a node that multiplies by a constant, or why it has none."""
    if is_op(node, "Conv", "ConvTranspose"):
        return _convolution(node, weight_shape)
    if len(weight_shape) != 2:
        return f"its weight has {len(weight_shape)} axes, not two"
    if is_op(node, "MatMul"):
        left = const_tensor(node.inputs[0]) is not None
        return Product(constant_left=left, weight_transposed=left)
    if is_op(node, "Gemm"):
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        if not alpha or not beta:
            return "its alpha or beta is zero"
        return Product(
            weight_transposed=bool(attribute(node, "transB", 0)),
            data_transposed=bool(attribute(node, "transA", 0)),
            factor=float(alpha),
        )
    return f"{node.op_type} is no convolution and no matrix product"


def _convolution(node: ir.Node, weight_shape: tuple[int, ...]) -> Convolution | str:
    axes = len(weight_shape) - 2
    if axes < 1:
        return f"its weight has {len(weight_shape)} axes"
    transposed = is_op(node, "ConvTranspose")
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if transposed and (same or attribute(node, "output_shape")):
        return "its padding follows from a wanted output shape"
    zeros, ones = [0] * axes, [1] * axes
    pads = attribute(node, "pads", [*zeros, *zeros])
    start, end = (zeros, zeros) if auto_pad == "VALID" else (pads[:axes], pads[axes:])
    if transposed:
        more = attribute(node, "output_padding", zeros)
        end = [pad - extra for pad, extra in zip(end, more, strict=True)]
    return Convolution(
        weight_shape=weight_shape,
        groups=int(attribute(node, "group", 1)),
        strides=tuple(attribute(node, "strides", ones)),
        dilations=tuple(attribute(node, "dilations", ones)),
        pads=None if same else tuple(start),
        end_pads=tuple(end),
        auto_pad=auto_pad,
        transposed=transposed,
    )
