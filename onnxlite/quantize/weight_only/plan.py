"""Plan of one weight: its levels, blocks, scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.packing import WeightType, weight_type
from onnxlite.quantize.weight_only.codes import Blocks, Levels, blocks_of, nearest_levels
from onnxlite.quantize.weight_only.decode_graph import PackedTensor, node_bytes, packed_nbytes
from onnxlite.quantize.weight_only.fit import FittedWeight
from onnxlite.quantize.weight_only.hqq import hqq_levels
from onnxlite.quantize.weight_only.kernels import kernel_block, why_not_packed
from onnxlite.quantize.weight_only.options import FoundBy, PackedWeight, QuantizeWeights
from onnxlite.quantize.weight_only.selection import Weight
from onnxlite.quantize.weight_only.streaming import (
    TensorCoding,
    code_tensor,
    encode_tensor,
    is_mapped,
    weight_error,
)
from onnxlite.records import Reason

#: Default block size of weights that kernels read.
_KERNEL_BLOCK = 32


@dataclass(frozen=True)
class WeightPlan:
    """Weight that gets few bits, with its coding.

    Attributes:
        weight: the weight in the model.
        kind: its levels.
        blocks: the blocks with one scale each.
        coded: scales and zero points, and the rounding error.
        tensor: the float tensor that is coded: the model's weight, or the fitted one.
        method: the method that found the codes.
        by_kernel: a kernel reads the packed weight; otherwise it is decoded at load.
        threads: number of threads; None takes all cores.
        errors: output error of round-to-nearest and of the fitted weight, over the variance of
            the float output.
    """

    weight: Weight
    kind: WeightType
    blocks: Blocks
    coded: TensorCoding
    tensor: ir.TensorProtocol
    method: FoundBy
    by_kernel: bool
    threads: int | None = None
    errors: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """Name of the weight's initializer."""
        return self.weight.value.name or ""

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return packed_nbytes(self.blocks, self.coded.coding)

    @property
    def file_bytes(self) -> int:
        """Approximate bytes in the file, nodes included."""
        return self.nbytes + node_bytes(self.kind)

    def codes(self) -> NDArray[np.uint8]:
        """Return the codes in the shape of the view."""
        return encode_tensor(self.tensor, self.blocks, self.coded.coding, self.threads)

    def packed(self) -> PackedTensor:
        """Return the packed weight; a weight on disk is coded again when it is written."""
        lazy = is_mapped(self.tensor)
        dtype = self.weight.tensor.dtype
        return PackedTensor(dtype, self.blocks, self.coded.coding, self.codes, lazy)

    def decoded(self) -> ir.TensorProtocol:
        """Dequantize the weight to the model's type."""
        array = self.coded.coding.decode(self.codes()).reshape(self.blocks.shape)
        dtype = self.tensor.dtype
        return ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=self.tensor.name)

    def fitted(self, fitted: FittedWeight) -> WeightPlan:
        """Return this plan with the tensor and coding of a fitted weight."""
        return replace(
            self,
            coded=TensorCoding(fitted.coding, weight_error(self.weight.tensor, fitted.tensor)),
            tensor=fitted.tensor,
            method="gptq",
            errors=(fitted.error_nearest, fitted.error),
        )

    def row(self) -> PackedWeight:
        """Return the row of the report."""
        error_nearest, error = self.errors or (None, None)
        return PackedWeight(
            name=self.weight.node.name or "",
            op_type=self.weight.node.op_type,
            weight=self.name,
            shape=tuple(self.weight.shape),
            bits=self.kind.name,
            block=self.blocks.size,
            method=self.method,
            bytes_before=self.weight.tensor.nbytes,
            bytes=self.nbytes,
            weight_sqnr_db=self.coded.sqnr_db,
            error_nearest=error_nearest,
            error=error,
        )


def plan_weight(
    weight: Weight, options: QuantizeWeights, threads: int | None = None
) -> WeightPlan | Reason:
    """Code a weight without samples.

    Args:
        weight: the weight and its width.
        options: method, mode and block size.
        threads: number of threads; None takes all cores.

    Returns:
        The plan, or the reason why the weight stays float.
    """
    kind = weight_type(weight.bits)
    by_kernel = options.mode == "compute" and why_not_packed(weight) is None
    size = options.block_for(weight.bits)
    if by_kernel:
        wanted = options.block_size if options.block_size is not None else _KERNEL_BLOCK
        size = kernel_block(weight, wanted)
    blocks = blocks_of(weight.uses, weight.shape, size)
    coded = code_tensor(weight.tensor, blocks, kind, _finder(kind, blocks, options), threads)
    if isinstance(coded, Reason):
        return coded
    method: FoundBy = "hqq" if options.method == "hqq" else "rtn"
    plan = WeightPlan(weight, kind, blocks, coded, weight.tensor, method, by_kernel, threads)
    if plan.file_bytes >= weight.tensor.nbytes:
        return Reason(
            "no-smaller",
            f"its weight {weight.value.name!r} has {weight.tensor.nbytes} bytes and would have "
            f"{plan.nbytes} and about {node_bytes(kind)} of nodes",
        )
    return plan


def _finder(
    kind: WeightType, blocks: Blocks, options: QuantizeWeights
) -> Callable[[NDArray[Any]], Levels]:
    """Return the function that finds scales and zero points of a chunk of the view."""
    free_zero = blocks.view != blocks.shape
    if options.method != "hqq":
        return lambda view: nearest_levels(kind, view, blocks.reduced, free_zero=free_zero)
    whole_zero = options.mode == "compute"
    return lambda view: hqq_levels(
        kind, view, blocks.reduced, free_zero=free_zero, whole_zero=whole_zero
    )
