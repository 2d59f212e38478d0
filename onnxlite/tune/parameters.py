"""What is learned: tensors with gradients, what they are in the graph, and back into constants.

Each kind owns some initializers. In torch it computes their values from its leaves; after
training it gives the arrays that are stored in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxlite.tune.operators.quantization import round_through

Arrays: TypeAlias = dict[str, NDArray[Any]]
Tensors: TypeAlias = dict[str, Tensor]

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class TrainableTensor:
    """A tensor that the optimizer changes; `rate` is its step for a learning rate of 1."""

    tensor: Tensor
    rate: float


class TrainableConstant(Protocol):
    """One thing that is learned."""

    @property
    def names(self) -> tuple[str, ...]:
        """The initializers that it computes."""
        ...

    @property
    def leaves(self) -> tuple[TrainableTensor, ...]:
        """What the optimizer changes."""
        ...

    def compute(self, values: Tensors) -> None:
        """Put the tensors of `names` into `values`, which hold those computed before."""
        ...

    def project(self) -> None:
        """After a step of the optimizer: back into the allowed range."""
        ...

    def store(self, arrays: Arrays) -> None:
        """Put what is stored for `names` into `arrays`, which hold those stored before."""
        ...


def _leaf(array: NDArray[Any], rate: float | None = None) -> TrainableTensor:
    """A leaf; without a rate, steps are relative to the root mean square of the values."""
    tensor = torch.tensor(array, dtype=torch.float32)
    typical = float(tensor.square().mean().sqrt()) if rate is None else rate
    return TrainableTensor(tensor.requires_grad_(), typical + 1e-6 if rate is None else rate)


class FloatConstant:
    """A constant in float. What is zero in a weight stays zero: it may be pruned."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.names = (name,)
        self._dtype = array.dtype
        # A float16 constant is learned in float32 and rounded, straight through, in each run.
        self._leaf = _leaf(array.astype(np.float32))
        self._mask = torch.tensor(array != 0) if array.ndim > 1 and not array.all() else None
        self.leaves = (self._leaf,)

    def compute(self, values: Tensors) -> None:
        """The tensor in the type of the constant."""
        tensor = self._leaf.tensor
        values[self.names[0]] = tensor.half() if self._dtype == np.float16 else tensor

    def project(self) -> None:
        """Zeros again where there were zeros."""
        if self._mask is not None:
            self._leaf.tensor.mul_(self._mask)

    def store(self, arrays: Arrays) -> None:
        """The learned values."""
        arrays[self.names[0]] = _numpy(self._leaf.tensor).astype(self._dtype)


class ActivationScale:
    """The step of activations, shared by the Q and DQ nodes of a value (LSQ).

    It is learned as a factor in logarithm, `scale * exp(theta)`, which stays positive.

    Args:
        name: the initializer.
        array: the scale, of one element.
        widest: the largest factor that it may grow by.
    """

    def __init__(self, name: str, array: NDArray[Any], widest: float) -> None:
        self.names = (name,)
        self._start, self._most = torch.tensor(array), float(np.log(widest))
        self._leaf = _leaf(np.zeros(array.shape, np.float32), 0.1)
        self.leaves = (self._leaf,)

    def compute(self, values: Tensors) -> None:
        """The present scale."""
        values[self.names[0]] = self._start * self._leaf.tensor.exp()

    def project(self) -> None:
        """No wider than allowed, and no narrower than an eighth."""
        self._leaf.tensor.clamp_(-2.08, self._most)

    def store(self, arrays: Arrays) -> None:
        """The scale as float32, rounded down where it may not grow."""
        found = _numpy(self._start * self._leaf.tensor.exp())
        limit = _numpy(self._start) * np.float32(np.exp(self._most))
        arrays[self.names[0]] = np.minimum(found, limit).astype(np.float32)


class QuantizedWeight:
    """Integers and scales of a weight in front of a DQ node.

    The weight is learned in units of its scale and rounded in each run, straight through; its
    scales are learned as factors. Integers stay within the range that they had: where kernels
    saturate it is less than that of their type.

    Args:
        names: of the integers and of their scale.
        integers: the present ones.
        start: where to start from: numbers that are rounded to the integers.
        scale: float32.
    """

    def __init__(
        self,
        names: tuple[str, str],
        integers: NDArray[Any],
        start: NDArray[Any],
        scale: NDArray[Any],
    ) -> None:
        self.names = names
        self._dtype, self._scale = integers.dtype, torch.tensor(scale.astype(np.float32))
        self._low, self._high = float(integers.min()), float(integers.max())
        self._steps = _leaf(start.clip(self._low, self._high).astype(np.float32))
        self._factor = _leaf(np.zeros(scale.shape, np.float32), 0.1)
        self.leaves = (self._steps, self._factor)

    def compute(self, values: Tensors) -> None:
        """Rounded integers in float, and scales."""
        values[self.names[0]] = round_through(self._steps.tensor)
        values[self.names[1]] = self._scale * self._factor.tensor.exp()

    def project(self) -> None:
        """Integers within the range that they had."""
        self._steps.tensor.clamp_(self._low, self._high)

    def store(self, arrays: Arrays) -> None:
        """Integers of the stored type, and scales."""
        arrays[self.names[0]] = np.rint(_numpy(self._steps.tensor)).astype(self._dtype)
        arrays[self.names[1]] = _numpy(self._scale * self._factor.tensor.exp()).astype(np.float32)


class PackedWeight:
    """Codes and scale of a weight that ordinary nodes decode from packed words.

    Codes are learned as those of `QuantizedWeight` are.

    Args:
        names: of the value of the codes in float, and of the constant of their scale.
        codes: the present ones.
        start: where to start from: numbers that are rounded to the codes.
        scale: float32 or float16.
        stored: names of the constants that hold the words.
        encode: gives the words of new codes.
    """

    def __init__(
        self,
        names: tuple[str, str],
        codes: NDArray[Any],
        start: NDArray[Any],
        scale: NDArray[Any],
        stored: Sequence[str],
        encode: Callable[[NDArray[Any]], Sequence[NDArray[Any]]],
    ) -> None:
        self.names = names
        self._stored, self._encode = stored, encode
        self._dtype, self._scale = scale.dtype, torch.tensor(scale.astype(np.float32))
        self._low, self._high = float(codes.min()), float(codes.max())
        middle = (self._low + self._high) / 2
        self._middle = torch.tensor(middle)
        within = start.clip(self._low, self._high)
        self._steps = _leaf(within.astype(np.float32) - middle)
        self._factor = _leaf(np.zeros(scale.shape, np.float32), 0.1)
        self.leaves = (self._steps, self._factor)

    def compute(self, values: Tensors) -> None:
        """Rounded codes in float, and the scale in its type."""
        values[self.names[0]] = round_through(self._steps.tensor + self._middle)
        scale = self._scale * self._factor.tensor.exp()
        values[self.names[1]] = scale.half() if self._dtype == np.float16 else scale

    def project(self) -> None:
        """Codes within the range that they had."""
        half = (self._high - self._low) / 2
        self._steps.tensor.clamp_(-half, half)

    def store(self, arrays: Arrays) -> None:
        """Words, and the scale."""
        codes = _numpy((self._steps.tensor + self._middle).round())
        arrays.update(zip(self._stored, self._encode(codes), strict=True))
        scale = _numpy(self._scale * self._factor.tensor.exp())
        arrays[self.names[1]] = scale.astype(self._dtype)


class QuantizedBias:
    """A bias in int32 whose scale is that of the input times that of the weight.

    Args:
        names: of the integers and of the scale.
        bias: the real numbers.
        shape: of the scale.
        factors: names of the two scales, which are computed and stored before.
        fixed: those of the two that are not learned.
    """

    def __init__(
        self,
        names: tuple[str, str],
        bias: NDArray[Any],
        shape: tuple[int, ...],
        factors: tuple[str, str],
        fixed: Mapping[str, NDArray[Any]],
    ) -> None:
        self.names = names
        self._shape, self._factors, self._fixed = shape, factors, dict(fixed)
        self._bias = _leaf(bias)
        self.leaves = (self._bias,)

    def compute(self, values: Tensors) -> None:
        """Rounded integers in float, and the scale without gradient."""
        sides = [
            values[name].detach() if name in values else torch.tensor(self._fixed[name])
            for name in self._factors
        ]
        scale = (sides[0].reshape(-1) * sides[1].reshape(-1)).reshape(self._shape)
        values[self.names[0]] = round_through(self._bias.tensor / scale)
        values[self.names[1]] = scale

    def project(self) -> None:
        """Nothing: int32 has room."""

    def store(self, arrays: Arrays) -> None:
        """Integers in units of the stored scales."""
        sides = [arrays[n] if n in arrays else self._fixed[n] for n in self._factors]
        scale = (sides[0].reshape(-1) * sides[1].reshape(-1)).reshape(self._shape)
        scale = scale.astype(np.float32)
        steps = np.rint(_numpy(self._bias.tensor).astype(np.float64) / scale)
        arrays[self.names[0]] = np.clip(steps, -_INT32_MAX, _INT32_MAX).astype(np.int32)
        arrays[self.names[1]] = scale


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().numpy().copy()
    return array
