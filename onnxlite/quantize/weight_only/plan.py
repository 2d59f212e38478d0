"""Plan of one weight: its width, blocks and codes, as every later phase reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.packing import WeightType, weight_type
from onnxlite.quantize.weight_only.codes import Blocks, Levels, blocks_of, nearest_levels
from onnxlite.quantize.weight_only.decode_graph import Packed, node_bytes, packed_nbytes
from onnxlite.quantize.weight_only.hqq import hqq_levels
from onnxlite.quantize.weight_only.kernels import kernel_block, refusal
from onnxlite.quantize.weight_only.options import WeightOptions
from onnxlite.quantize.weight_only.selection import Weight
from onnxlite.quantize.weight_only.streaming import Coded, code_tensor, encode_tensor, is_mapped
from onnxlite.records import Cell, LayerRow


@dataclass(frozen=True)
class Chosen:
    """A weight that gets few bits, with its coding; `tensor` is what is coded."""

    weight: Weight
    kind: WeightType
    blocks: Blocks
    coded: Coded
    tensor: ir.TensorProtocol
    method: str
    errors: tuple[float, float] | None = None

    def codes(self, threads: int | None) -> NDArray[np.uint8]:
        """Shaped like the view."""
        return encode_tensor(self.tensor, self.blocks, self.coded.coding, threads)

    def packed(self, options: WeightOptions) -> Packed:
        """Weights on disk are coded again when they are written."""
        lazy = is_mapped(self.tensor)
        codes = partial(self.codes, options.threads)
        dtype = self.weight.tensor.dtype
        return Packed(dtype, self.blocks, self.coded.coding, codes, lazy)

    def row(self) -> LayerRow:
        """For the report."""
        values: dict[str, Cell] = {
            "weight": self.weight.value.name,
            "shape": "x".join(map(str, self.weight.shape)),
            "bits": self.kind.name,
            "block": self.blocks.size,
            "method": self.method,
            "bytes_before": self.weight.tensor.nbytes,
            "bytes": packed_nbytes(self.blocks, self.coded.coding),
            "weight_sqnr_db": self.coded.sqnr_db,
        }
        if self.errors is not None:
            values |= {"error_nearest": self.errors[0], "error": self.errors[1]}
        return LayerRow(self.weight.node.name or "", self.weight.node.op_type, values)


def nearest(weight: Weight, options: WeightOptions) -> Chosen | str:
    """A tensor rounded to nearest, or why it stays as it is."""
    kind = weight_type(weight.bits)
    size = options.block_for(weight.bits)
    if options.mode == "compute" and refusal(weight) is None:
        size = kernel_block(weight, options.block_size if options.block_size is not None else 32)
    blocks = blocks_of(weight.uses, weight.shape, size)
    free_zero = blocks.view != blocks.shape

    def find(view: NDArray[Any]) -> Levels:
        if options.method == "hqq":
            whole = options.mode == "compute"
            return hqq_levels(kind, view, blocks.reduced, free_zero=free_zero, whole_zero=whole)
        return nearest_levels(kind, view, blocks.reduced, free_zero=free_zero)

    tensor = weight.tensor
    coded = code_tensor(tensor, blocks, kind, find, options.threads)
    if isinstance(coded, str):
        return coded
    nbytes = packed_nbytes(blocks, coded.coding)
    if nbytes + node_bytes(kind) >= tensor.nbytes:
        return (
            f"its weight {weight.value.name!r} has {tensor.nbytes} bytes and would have "
            f"{nbytes} and about {node_bytes(kind)} of nodes"
        )
    return Chosen(weight, kind, blocks, coded, tensor, "hqq" if options.method == "hqq" else "rtn")
