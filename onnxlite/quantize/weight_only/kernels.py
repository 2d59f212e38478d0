"""Packed weights for the kernels MatMulNBits and GatherBlockQuantized.

    y = MatMul(x, w)              ->  MatMulNBits(x, codes, scales[, zeros])
    y = Gemm(x, w, c)             ->  Add(MatMulNBits(x, codes, scales), c)
    e = Gather(w, i)              ->  GatherBlockQuantized(codes, i, scales)
    y = MatMul(x, Transpose(w))   ->  MatMulNBits on the codes of the Gather

Both operators are contrib operators of ONNX Runtime. They take 2, 4 and 8 bits; other widths are
stored in the next larger one. Weights of other operators are decoded at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder, Place, replace_node
from onnxlite.graph import constant, graph_of, iter_nodes
from onnxlite.ops import CONTRIB_DOMAIN, RowUse, row_use
from onnxlite.packing import WeightType, pack_rows
from onnxlite.quantize.weight_only.codes import Blocks
from onnxlite.quantize.weight_only.decode_graph import PackedTensor, stored_tensor
from onnxlite.quantize.weight_only.selection import Weight
from onnxlite.records import Reason

#: Block sizes of the kernels.
_BLOCKS = (16, 32, 64, 128, 256)
#: Block size for weights with one scale per channel.
_CHANNEL_BLOCK = 32

#: `accuracy_level` of MatMulNBits: activations in float32, or rounded to int8 block by block.
EXACT, INT8 = 0, 4


@dataclass(frozen=True)
class KernelWeight:
    """Weight in the layout of the kernels: one row per output or table entry.

    Attributes:
        bits: 2, 4 or 8.
        block: number of codes per scale.
        features: number of codes of a row, without the padding of its last block.
        outputs: number of rows.
        codes: returns uint8[outputs, blocks * block * bits / 8].
        scales: float32 or float16 [outputs, blocks].
        zeros: uint8[outputs, ceil(blocks * bits / 8)], or None for the middle level.
        lazy: call `codes` only when the model is saved.
        columns: the outputs are columns of the float weight, not rows.
    """

    bits: int
    block: int
    features: int
    outputs: int
    codes: Callable[[], NDArray[np.uint8]]
    scales: NDArray[Any]
    zeros: NDArray[np.uint8] | None
    lazy: bool
    columns: bool

    @property
    def blocks(self) -> int:
        """Number of blocks of a row."""
        return -(-self.features // self.block)

    @property
    def block_bytes(self) -> int:
        """Bytes of the codes of a block."""
        return self.block * self.bits // 8


def kernel_bits(kind: WeightType) -> int:
    """Return the width in which kernels store a weight type."""
    return 2 if kind.levels <= 4 else 4 if kind.levels <= 16 else 8


def kernel_block(weight: Weight, wanted: int) -> int:
    """Choose the kernel's block size closest to `wanted` that divides a row.

    Returns:
        The block size; 0 (one scale per channel) if none divides a row or `wanted` is 0.
    """
    features = weight.shape[_features_axis(weight)]
    fitting = [size for size in _BLOCKS if not features % size]
    return min(fitting, key=lambda size: abs(np.log2(size / wanted)), default=0) if wanted else 0


def why_not_packed(weight: Weight) -> Reason | None:
    """Return the reason why no kernel can read this weight, or None."""
    message = _objection(weight)
    return None if message is None else Reason("no-kernel", message)


def _objection(weight: Weight) -> str | None:
    if len(weight.shape) != 2:
        return "it has more than two axes"
    if weight.tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return f"it is {weight.tensor.dtype}"
    uses = [(node, row_use(node, port)) for node, port in weight.uses]
    for node, use in uses:
        if use is None:
            return f"{node.op_type} node {node.name!r} has no kernel for packed weights"
    if len({use.axis for _, use in uses if use is not None}) > 1:
        return "some of its readers take its rows and some its columns"
    features = weight.shape[_features_axis(weight)]
    looked_up = any(use.kind == "lookup" for _, use in uses if use is not None)
    if features % _BLOCKS[0] and looked_up:
        return f"entries of {features} numbers are no whole blocks of {_BLOCKS[0]}"
    return None


def _features_axis(weight: Weight) -> int:
    """Return the axis of a weight along its features."""
    use = row_use(*weight.uses[0])
    return 1 if use is None else 1 - use.axis


def to_kernel_layout(weight: Weight, packed: PackedTensor) -> KernelWeight:
    """Convert a packed weight to the layout of the kernels.

    `why_not_packed(weight)` must be None.
    """
    axis = 1 - _features_axis(weight)
    kind, blocks, coding = packed.coding.kind, packed.blocks, packed.coding
    outputs, features = weight.shape[axis], weight.shape[1 - axis]
    bits = kernel_bits(kind)
    block = _block(blocks)
    repeats = blocks.size // block if blocks.size != features else -(-features // block)
    scale = np.repeat(_as_rows(coding.scale, axis), repeats, axis=1)
    doubled = kind.levels == 2
    middle = 1 if doubled else int(kind.middle)
    zero: NDArray[np.uint8] | None = None
    if coding.zero is not None:
        zero = np.repeat(_as_rows(coding.zero, axis), repeats, axis=1)
    elif middle != 1 << (bits - 1):
        zero = np.full(scale.shape, middle, np.uint8)
    length = scale.shape[1] * block

    def build() -> NDArray[np.uint8]:
        codes = packed.codes().reshape(weight.shape)
        rows = codes.T if axis == 1 else codes
        filled = np.full((outputs, length), middle, np.uint8)
        filled[:, :features] = rows * 2 if doubled else rows
        return pack_rows(filled, bits)

    return KernelWeight(
        bits,
        block,
        features,
        outputs,
        build,
        np.ascontiguousarray(scale / 2 if doubled else scale),
        None if zero is None else pack_rows(zero, bits),
        packed.lazy,
        columns=axis == 1,
    )


def _block(blocks: Blocks) -> int:
    """Return the block size of the kernel for a view of the weight."""
    fits = [size for size in _BLOCKS if not blocks.size % size]
    return max(fits, default=_CHANNEL_BLOCK)


def _as_rows(scale: NDArray[Any], axis: int) -> NDArray[Any]:
    """Reshape scales or zero points of a view to `[outputs, blocks]`."""
    if axis == 1:  # [blocks, 1, outputs] or [1, outputs]
        return scale.reshape(-1, scale.shape[-1]).T
    return scale.reshape(scale.shape[0], -1)  # [outputs, blocks, 1] or [outputs, 1]


@dataclass(frozen=True)
class _Stored:
    """Initializers of one weight: codes by row and by block, scales, zero points."""

    rows: ir.Value
    blocks: ir.Value
    scale: ir.Value
    zero: ir.Value | None

    def inputs(self, codes: ir.Value) -> list[ir.Value]:
        return [codes, self.scale, *([] if self.zero is None else [self.zero])]


class KernelWriter:
    """Writer that replaces float operators by kernels in place.

    Args:
        builder: builder of the model.
        level: `EXACT` or `INT8`.
    """

    def __init__(self, builder: GraphBuilder, level: int = EXACT) -> None:
        self._builder, self._level = builder, level
        builder.model.opset_imports.setdefault(CONTRIB_DOMAIN, 1)

    def write(self, weight: Weight, packed: KernelWeight, base: str) -> None:
        """Replace every reader of a weight by a kernel and remove the float weight."""
        graph = weight.graph
        uses = [(node, use) for node, port in weight.uses if (use := row_use(node, port))]
        stored = self._store(self._builder.before(next(iter(graph))), weight, packed, base, uses)
        for node, use in uses:
            if use.kind == "lookup":
                self._look_up(node, stored, packed)
                continue
            for product in use.products:
                addend = None if use.addend is None else product.inputs[use.addend]
                self._multiply(product, stored, packed, addend)
            if use.kind == "transposed":
                graph_of(node).remove(node, safe=True)
        graph.initializers.pop(weight.value.name or "", None)

    def _store(
        self,
        start: Place,
        weight: Weight,
        packed: KernelWeight,
        base: str,
        uses: list[tuple[ir.Node, RowUse]],
    ) -> _Stored:
        shape = (packed.outputs, packed.blocks * packed.block_bytes)
        tensor = stored_tensor(packed.codes, ir.DataType.UINT8, shape, lazy=packed.lazy)
        codes = start.initializer(f"{base}.q", tensor)
        scale = start.initializer(f"{base}.scale", packed.scales)
        dtype = weight.tensor.dtype
        if packed.scales.dtype != dtype.numpy():
            scale = start.op("Cast", [scale], {"to": int(dtype)}, name="d")
        zero = None
        if packed.zeros is not None:
            zero = start.initializer(f"{base}.zero", packed.zeros)
        by_block = codes
        if not all(use.kind == "lookup" for _, use in uses):
            blocks = np.array([packed.outputs, packed.blocks, packed.block_bytes], np.int64)
            by_block = start.op(
                "Reshape", [codes, start.initializer(f"{base}.shape", blocks)], name="d"
            )
        return _Stored(codes, by_block, scale, zero)

    def _multiply(
        self, node: ir.Node, stored: _Stored, packed: KernelWeight, addend: ir.Value | None
    ) -> None:
        attributes = {
            "K": packed.features,
            "N": packed.outputs,
            "bits": packed.bits,
            "block_size": packed.block,
            "accuracy_level": self._level,
        }
        inputs = [node.inputs[0], *stored.inputs(stored.blocks)]
        self._replace(node, "MatMulNBits", inputs, attributes, addend)

    def _look_up(self, node: ir.Node, stored: _Stored, packed: KernelWeight) -> None:
        attributes = {
            "bits": packed.bits,
            "block_size": packed.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        codes, *rest = stored.inputs(stored.rows)
        self._replace(node, "GatherBlockQuantized", [codes, node.inputs[1], *rest], attributes)

    def _replace(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: dict[str, int],
        addend: ir.Value | None = None,
    ) -> None:
        """Replace a node by a kernel and the nodes behind it."""
        at, name = self._builder.before(node), node.name
        result = at.op(op_type, inputs, attributes, name=f"{name}_product", domain=CONTRIB_DOMAIN)
        _named(result, name)
        if addend is not None:
            result = at.op("Add", [result, addend], name=f"{name}_sum")
            _named(result, f"{name}_bias")
        replace_node(node, [result])


def _named(output: ir.Value, name: str | None) -> None:
    """Name the producer of a value after the float node, as reports do."""
    node = output.producer()
    assert node is not None
    node.name = name


def set_accuracy_level(model: ir.Model, level: int) -> None:
    """Rewrite in place: set `accuracy_level` of every MatMulNBits node."""
    for node in iter_nodes(model):
        if node.op_type == "MatMulNBits" and node.domain == CONTRIB_DOMAIN:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def product_model(packed: KernelWeight) -> ir.Model:
    """Make a model of one kernel: `y = x @ w`, x float32[n, features]."""
    x = ir.Value(
        name="x", shape=ir.Shape(("n", packed.features)), type=ir.TensorType(ir.DataType.FLOAT)
    )
    w = constant(np.zeros((1, 1), np.float32), "w")
    node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape(("n", packed.outputs))
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 17}, name="product")
    graph.register_initializer(w)
    model = ir.Model(graph, ir_version=8)
    assert w.const_value is not None
    weight = Weight(w, w.const_value, ((node, 1),), graph, 4)
    KernelWriter(GraphBuilder(model, naming="none")).write(weight, packed, "p")
    return model
