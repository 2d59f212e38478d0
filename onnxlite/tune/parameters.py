"""Trainable constants: tensors with gradients, and the constants of the graph made of them.

Each kind owns some initializers. In torch it computes their values from its tensors; after
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
from onnxlite.tune.options import TuneChanges

Arrays: TypeAlias = dict[str, NDArray[Any]]
Tensors: TypeAlias = dict[str, Tensor]

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class TrainableTensor:
    """A tensor that the optimizer changes; `step_size` is its step for a learning rate of 1."""

    tensor: Tensor
    step_size: float


class TrainableConstant(Protocol):
    """A constant of the graph that is learned, with its scale if it has one."""

    @property
    def counted(self) -> TuneChanges:
        """What a report counts it as."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the initializers that it computes."""
        ...

    @property
    def tensors(self) -> tuple[TrainableTensor, ...]:
        """Tensors that the optimizer changes."""
        ...

    def compute(self, values: Tensors) -> None:
        """Put the tensors of `names` into `values`, which hold those computed before."""
        ...

    def project(self) -> None:
        """Bring the tensors back into the allowed range after a step of the optimizer."""
        ...

    def store(self, arrays: Arrays) -> None:
        """Put the arrays to store for `names` into `arrays`, which hold those of others."""
        ...


def _trainable(array: NDArray[Any], step_size: float | None = None) -> TrainableTensor:
    """Make a tensor; by default its steps are relative to the root mean square of the values."""
    tensor = torch.tensor(array, dtype=torch.float32)
    if step_size is None:
        step_size = float(tensor.square().mean().sqrt()) + 1e-6
    return TrainableTensor(tensor.requires_grad_(), step_size)


class FloatConstant:
    """Float constant. Zeros of a weight stay zero: they may be pruned."""

    counted = TuneChanges(constants_tuned=1)

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.names = (name,)
        self._dtype = array.dtype
        # A float16 constant is learned in float32 and rounded, straight through, in each run.
        self._weight = _trainable(array.astype(np.float32))
        self._mask = torch.tensor(array != 0) if array.ndim > 1 and not array.all() else None
        self.tensors = (self._weight,)

    def compute(self, values: Tensors) -> None:
        """Give the tensor in the type of the constant."""
        tensor = self._weight.tensor
        values[self.names[0]] = tensor.half() if self._dtype == np.float16 else tensor

    def project(self) -> None:
        """Restore the zeros."""
        if self._mask is not None:
            self._weight.tensor.mul_(self._mask)

    def store(self, arrays: Arrays) -> None:
        """Give the learned values."""
        arrays[self.names[0]] = _numpy(self._weight.tensor).astype(self._dtype)


class ActivationScale:
    """Scale of activations, shared by the Q and DQ nodes of a value (LSQ).

    It is learned as a factor in logarithm, `scale * exp(theta)`, which stays positive.

    Args:
        name: the initializer.
        array: the scale, of one element.
        widest: the largest factor that it may grow by.
    """

    counted = TuneChanges(scales_tuned=1)

    def __init__(self, name: str, array: NDArray[Any], widest: float) -> None:
        self.names = (name,)
        self._start, self._most = torch.tensor(array), float(np.log(widest))
        self._log_factor = _trainable(np.zeros(array.shape, np.float32), 0.1)
        self.tensors = (self._log_factor,)

    def compute(self, values: Tensors) -> None:
        """Give the present scale."""
        values[self.names[0]] = self._start * self._log_factor.tensor.exp()

    def project(self) -> None:
        """Clip to the widest allowed scale and an eighth of the first one."""
        self._log_factor.tensor.clamp_(-2.08, self._most)

    def store(self, arrays: Arrays) -> None:
        """Give the scale as float32, rounded down where it may not grow."""
        found = _numpy(self._start * self._log_factor.tensor.exp())
        limit = _numpy(self._start) * np.float32(np.exp(self._most))
        arrays[self.names[0]] = np.minimum(found, limit).astype(np.float32)


class QuantizedWeight:
    """Quantized weight: integers and scales in front of a DQ node.

    The weight is learned in units of its scale and rounded in each run, straight through; its
    scales are learned as factors. Integers stay within the range that they had: where kernels
    saturate it is less than that of their type.

    Args:
        names: of the integers and of their scale.
        integers: the present ones.
        start: where to start from: numbers that are rounded to the integers.
        scale: float32.
    """

    counted = TuneChanges(integer_weights_tuned=1)

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
        self._steps = _trainable(start.clip(self._low, self._high).astype(np.float32))
        self._log_factor = _trainable(np.zeros(scale.shape, np.float32), 0.1)
        self.tensors = (self._steps, self._log_factor)

    def compute(self, values: Tensors) -> None:
        """Give rounded integers in float, and scales."""
        values[self.names[0]] = round_through(self._steps.tensor)
        values[self.names[1]] = self._scale * self._log_factor.tensor.exp()

    def project(self) -> None:
        """Clip integers to the range that they had."""
        self._steps.tensor.clamp_(self._low, self._high)

    def store(self, arrays: Arrays) -> None:
        """Give integers of the stored type, and scales."""
        arrays[self.names[0]] = np.rint(_numpy(self._steps.tensor)).astype(self._dtype)
        arrays[self.names[1]] = _numpy(self._scale * self._log_factor.tensor.exp()).astype(
            np.float32
        )


class PackedWeight:
    """Packed weight: codes and scale that ordinary nodes decode from packed words.

    Codes are learned as those of `QuantizedWeight` are.

    Args:
        names: of the value of the codes in float, and of the constant of their scale.
        codes: the present ones.
        start: where to start from: numbers that are rounded to the codes.
        scale: float32 or float16.
        stored: names of the constants that hold the words.
        encode: packs new codes into words.
    """

    counted = TuneChanges(packed_weights_tuned=1)

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
        self._steps = _trainable(within.astype(np.float32) - middle)
        self._log_factor = _trainable(np.zeros(scale.shape, np.float32), 0.1)
        self.tensors = (self._steps, self._log_factor)

    def compute(self, values: Tensors) -> None:
        """Give rounded codes in float, and the scale in its type."""
        values[self.names[0]] = round_through(self._steps.tensor + self._middle)
        scale = self._scale * self._log_factor.tensor.exp()
        values[self.names[1]] = scale.half() if self._dtype == np.float16 else scale

    def project(self) -> None:
        """Clip codes to the range that they had."""
        half = (self._high - self._low) / 2
        self._steps.tensor.clamp_(-half, half)

    def store(self, arrays: Arrays) -> None:
        """Give words, and the scale."""
        codes = _numpy((self._steps.tensor + self._middle).round())
        arrays.update(zip(self._stored, self._encode(codes), strict=True))
        scale = _numpy(self._scale * self._log_factor.tensor.exp())
        arrays[self.names[1]] = scale.astype(self._dtype)


class QuantizedBias:
    """Quantized bias: int32, with the input's scale times the weight's.

    Args:
        names: of the integers and of the scale.
        bias: the real numbers.
        shape: of the scale.
        factors: names of the two scales, which are computed and stored before.
        fixed: those of the two that are not learned.
    """

    counted = TuneChanges(integer_biases_tuned=1)

    def __init__(
        self,
        names: tuple[str, str],
        bias: NDArray[Any],
        shape: tuple[int, ...],
        factors: tuple[str, str],
        fixed: Mapping[str, NDArray[Any]],
    ) -> None:
        self.names = names
        self._shape, self._log_factors, self._fixed = shape, factors, dict(fixed)
        self._bias = _trainable(bias)
        self.tensors = (self._bias,)

    def compute(self, values: Tensors) -> None:
        """Give rounded integers in float, and the scale without gradient."""
        sides = [
            values[name].detach() if name in values else torch.tensor(self._fixed[name])
            for name in self._log_factors
        ]
        scale = (sides[0].reshape(-1) * sides[1].reshape(-1)).reshape(self._shape)
        values[self.names[0]] = round_through(self._bias.tensor / scale)
        values[self.names[1]] = scale

    def project(self) -> None:
        """Do nothing: int32 has room."""

    def store(self, arrays: Arrays) -> None:
        """Give integers in units of the stored scales."""
        sides = [arrays[n] if n in arrays else self._fixed[n] for n in self._log_factors]
        scale = (sides[0].reshape(-1) * sides[1].reshape(-1)).reshape(self._shape)
        scale = scale.astype(np.float32)
        steps = np.rint(_numpy(self._bias.tensor).astype(np.float64) / scale)
        arrays[self.names[0]] = np.clip(steps, -_INT32_MAX, _INT32_MAX).astype(np.int32)
        arrays[self.names[1]] = scale


def _numpy(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().numpy().copy()
    return array
