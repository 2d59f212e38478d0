"""Geometry of linear layers: from output positions to the inputs that make them.

Every layer is g independent products `Y[n, g, M] = X[n, g, K] W[g, K, M]`, one row per output
position. A geometry turns the stored weight into W and back, and picks the rows of X for some
positions out of the layer's input without unfolding all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import attribute, const_tensor, is_op

Array = NDArray[Any]
#: One index array per axis of the output but the channel axis, all of one length.
Positions = tuple[NDArray[np.intp], ...]


class GemmForm(NamedTuple):
    """Attributes of a Gemm node: `alpha * data @ weight + beta * bias`.

    Attributes:
        data_transposed: `transA`.
        weight_transposed: `transB`; the weight is stored `[outputs, inputs]`.
        alpha: factor of the product.
        beta: factor of the bias.
    """

    data_transposed: bool
    weight_transposed: bool
    alpha: float
    beta: float

    @classmethod
    def of(cls, node: ir.Node) -> GemmForm:
        """Read the attributes of a node."""
        return cls(
            bool(attribute(node, "transA", 0)),
            bool(attribute(node, "transB", 0)),
            float(attribute(node, "alpha", 1.0)),
            float(attribute(node, "beta", 1.0)),
        )

    @property
    def plain(self) -> bool:
        """True if rows of data are multiplied, and nothing is scaled."""
        return not self.data_transposed and self.alpha == self.beta == 1.0

    @property
    def output_axis(self) -> int:
        """Axis of the stored weight that the outputs lie along."""
        return 0 if self.weight_transposed else 1


class Geometry(Protocol):
    """Shape of a layer: how its weight, its input and its output belong together."""

    @property
    def channel_axis(self) -> int:
        """Axis of the layer's output that its channels lie along."""
        ...

    def matrix(self, weight: Array) -> Array:
        """Return the stored weight as `[g, K, M]`, factors included."""
        ...

    def arranged(self, weight: Array) -> Array:
        """Move anything shaped like the stored weight to `[g, K, M]`, without factors."""
        ...

    def tensor(self, matrix: Array) -> Array:
        """Return the stored form of a matrix, the inverse of `matrix`."""
        ...

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output's shape without the channel axis, for data of a shape."""
        ...

    def features(self, data: Array, positions: Positions) -> Array:
        """Return the inputs `[n, g, K]` that make the output at `positions`."""
        ...

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Tell whether data of this shape can make an output of these positions."""
        ...


@dataclass(frozen=True)
class ConvGeometry:
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
        """Return the weight as `[g, K, M]`."""
        return self.arranged(weight)

    def arranged(self, weight: Array) -> Array:
        """Move anything shaped like the weight to `[g, K, M]`."""
        first, second = self.weight_shape[0] // self.groups, self.weight_shape[1]
        split = weight.reshape(self.groups, first, second, prod(self.kernel))
        order = (0, 1, 3, 2) if self.transposed else (0, 2, 3, 1)
        outputs = second if self.transposed else first
        return split.transpose(order).reshape(self.groups, -1, outputs)

    def tensor(self, matrix: Array) -> Array:
        """Return the stored form of a matrix."""
        taps, outputs = prod(self.kernel), matrix.shape[2]
        split = matrix.reshape(self.groups, -1, taps, outputs)
        order = (0, 1, 3, 2) if self.transposed else (0, 3, 1, 2)
        return split.transpose(order).reshape(self.weight_shape)

    def features(self, data: Array, positions: Positions) -> Array:
        """Return the inputs `[n, g, K]` under the kernel, zero in the padding."""
        sample, *spatial = positions
        taps = np.indices(self.kernel).reshape(len(self.kernel), -1)
        valid = np.ones((len(sample), taps.shape[1]), bool)
        index: list[Any] = [sample[:, None], slice(None)]
        for axis, (place, tap, size) in enumerate(zip(spatial, taps, data.shape[2:], strict=True)):
            at, whole = self._input_index(place[:, None], tap[None], axis, size)
            valid &= whole & (at >= 0) & (at < size)
            index.append(np.clip(at, 0, size - 1))
        rows: Array = data[tuple(index)]
        rows[~valid] = 0
        split = rows.reshape(len(sample), taps.shape[1], self.groups, -1)
        return split.transpose(0, 2, 3, 1).reshape(len(sample), self.groups, -1)

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Return samples and the sizes that follow from stride, padding and kernel."""
        return data[0], *(self._output_size(axis, size) for axis, size in enumerate(data[2:]))

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Compare samples and number of axes; sizes follow from attributes."""
        return len(grid) == len(data) - 1 == len(self.kernel) + 1 and grid[0] == data[0]

    def _extent(self, axis: int) -> int:
        """Inputs from the first tap to the last one."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def _output_size(self, axis: int, size: int) -> int:
        stride, extent = self.strides[axis], self._extent(axis)
        if self.pads is None:
            return -(-size // stride)
        pads = self.pads[axis] + self.end_pads[axis]
        if self.transposed:
            return stride * (size - 1) + extent - pads
        return (size + pads - extent) // stride + 1

    def _input_index(
        self, place: NDArray[np.intp], tap: NDArray[np.intp], axis: int, size: int
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Index of the input under a tap, and whether there is one between strides."""
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
        total = max((-(-size // stride) - 1) * stride + self._extent(axis) - size, 0)
        return total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2


@dataclass(frozen=True)
class MatrixGeometry:
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

    @property
    def features_before_rows(self) -> bool:
        """The data's last axis counts rows, and the one before it features."""
        return self.data_transposed or self.constant_left

    def matrix(self, weight: Array) -> Array:
        """Return the weight as `[1, K, M]`, times the factor."""
        matrix: Array = self.factor * self.arranged(weight)
        return matrix

    def arranged(self, weight: Array) -> Array:
        """Move anything shaped like the weight to `[1, K, M]`, without the factor."""
        matrix: Array = (weight.T if self.weight_transposed else weight)[None]
        return matrix

    def tensor(self, matrix: Array) -> Array:
        """Return the stored form of a matrix."""
        weight: Array = matrix[0].T if self.weight_transposed else matrix[0]
        return weight / self.factor

    def grid(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Return every axis but that of features."""
        return (*data[:-2], data[-1]) if self.features_before_rows else data[:-1]

    def features(self, data: Array, positions: Positions) -> Array:
        """Return the rows `[n, 1, K]` of the data."""
        rows: Array = np.swapaxes(data, -1, -2) if self.features_before_rows else data
        return rows[positions][:, None]

    def reaches(self, data: tuple[int, ...], grid: tuple[int, ...]) -> bool:
        """Compare every axis but that of features."""
        return len(data) > 1 and grid == self.grid(data)


def matmul_geometry(node: ir.Node, weight_shape: tuple[int, ...]) -> MatrixGeometry | str:
    """Return the geometry of a MatMul by a constant on either side, or why it has none."""
    if len(weight_shape) != 2:
        return f"its weight has {len(weight_shape)} axes, not two"
    left = const_tensor(node.inputs[0]) is not None
    return MatrixGeometry(constant_left=left, weight_transposed=left)


def gemm_geometry(node: ir.Node, weight_shape: tuple[int, ...]) -> MatrixGeometry | str:
    """Return the geometry of a Gemm by a constant, or why it has none."""
    if len(weight_shape) != 2:
        return f"its weight has {len(weight_shape)} axes, not two"
    form = GemmForm.of(node)
    if not form.alpha or not form.beta:
        return "its alpha or beta is zero"
    return MatrixGeometry(
        weight_transposed=form.weight_transposed,
        data_transposed=form.data_transposed,
        factor=form.alpha,
    )


def conv_geometry(node: ir.Node, weight_shape: tuple[int, ...]) -> ConvGeometry | str:
    """Return the geometry of a Conv or ConvTranspose, or why it has none."""
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
    return ConvGeometry(
        weight_shape=weight_shape,
        groups=int(attribute(node, "group", 1)),
        strides=tuple(attribute(node, "strides", ones)),
        dilations=tuple(attribute(node, "dilations", ones)),
        pads=None if same else tuple(start),
        end_pads=tuple(end),
        auto_pad=auto_pad,
        transposed=transposed,
    )
