"""One call of an operator: what every operator's function gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxlite.errors import UnsupportedError
from onnxlite.graph import attribute, describe, tensor_array

#: ONNX element types that torch has; what torch lacks is held in the next wider type.
DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.UINT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
}


@dataclass(frozen=True)
class Call:
    """A node with the values that it gets.

    Attributes:
        node: the node.
        inputs: one tensor per input; None where the node leaves an input out.
        opset: version of the standard operator set.
        run_graph: runs a subgraph of the node and gives its outputs.
    """

    node: ir.Node
    inputs: Sequence[Any]
    opset: int
    run_graph: Callable[[ir.Graph], tuple[Tensor, ...]]

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    def get(self, port: int) -> Tensor | None:
        """The input at `port`, None if the node does not have it."""
        return self.inputs[port] if port < len(self.inputs) else None

    def given(self) -> list[Tensor]:
        """The inputs that the node does not leave out."""
        return [value for value in self.inputs if value is not None]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's plain value."""
        return attribute(self.node, name, default)

    def ints(self, name: str, port: int) -> list[int] | None:
        """Whole numbers that are an attribute in old and an input in new operator sets."""
        value = self.get(port)
        if value is not None:
            return [int(item) for item in value.reshape(-1).tolist()]
        found = self.attr(name)
        return None if found is None else [int(item) for item in np.atleast_1d(found)]

    def dtype(self, number: int) -> torch.dtype:
        """The torch type of an ONNX element type."""
        found = DTYPES.get(ir.DataType(number))
        return self.refuse(f"type {ir.DataType(number).name}") if found is None else found

    def refuse(self, what: str) -> NoReturn:
        """Raise the error that names this node and what of it is not supported."""
        raise UnsupportedError(
            f"{describe(self.node)}: {what} cannot be computed in torch, so this model cannot "
            "be tuned; repair needs no torch and knows every operator"
        )


#: What an operator's function is; a lone output needs no tuple.
OperatorFunction: TypeAlias = Callable[[Call], Tensor | tuple[Tensor, ...]]
Operators: TypeAlias = Mapping[str, OperatorFunction]


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of a constant as a torch tensor, raising `UnsupportedError` for text."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise UnsupportedError(
            f"tensor {tensor.name!r} holds {tensor.dtype.name}, which torch has not, so this "
            "model cannot be tuned"
        )
    return from_array(tensor_array(tensor)).to(dtype)


def from_array(array: NDArray[Any]) -> Tensor:
    """A copy of a NumPy array; types that only ONNX has become wider ones.

    Raises:
        UnsupportedError: the array holds text.
    """
    if array.dtype.kind in "OSU":
        raise UnsupportedError("torch holds no text, so a model that takes text cannot be tuned")
    if array.dtype.kind not in "fiub":  # ml_dtypes: bfloat16, int4, ...
        array = array.astype(np.float32)
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C"))
