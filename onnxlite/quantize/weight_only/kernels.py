"""Weights that kernels read in packed form: MatMulNBits and GatherBlockQuantized.

    y = MatMul(x, w)              ->  MatMulNBits(x, codes, scales[, zeros])
    y = Gemm(x, w, c)             ->  Add(MatMulNBits(x, codes, scales), c)
    e = Gather(w, i)              ->  GatherBlockQuantized(codes, i, scales)
    y = MatMul(x, Transpose(w))   ->  MatMulNBits on the codes of the Gather

Both operators are ONNX Runtime's own (domain com.microsoft). They take 2, 4 and 8 bits; other
widths are stored in the next larger one. Weights of other operators are decoded at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import Names, add_initializer
from onnxlite.ops import row_use
from onnxlite.packing import WeightType
from onnxlite.quantize.weight_only.codes import Blocks
from onnxlite.quantize.weight_only.decode_graph import Packed
from onnxlite.quantize.weight_only.selection import Weight

DOMAIN = "com.microsoft"
#: Blocks that the kernels take.
_BLOCKS = (16, 32, 64, 128, 256)
#: The block of a weight with one scale per channel.
_CHANNEL_BLOCK = 32

#: How exactly activations are taken: in float32, or rounded to int8 block by block.
EXACT, INT8 = 0, 4


@dataclass(frozen=True)
class PackedRows:
    """Packed rows, one per output of a product or entry of a table.

    Attributes:
        bits: 2, 4 or 8.
        block: codes that share a scale.
        features: codes of a row, without what fills up its last block.
        outputs: rows.
        codes: gives uint8[outputs, blocks * block * bits / 8].
        scales: float32 or float16 [outputs, blocks].
        zeros: uint8[outputs, ceil(blocks * bits / 8)] or None where it is the middle.
        lazy: `codes` is called when the model is saved.
        columns: outputs are columns of the float weight, not rows.
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
        """Blocks of a row."""
        return -(-self.features // self.block)


def kernel_bits(kind: WeightType) -> int:
    """The width in which kernels take a type."""
    return 2 if kind.levels <= 4 else 4 if kind.levels <= 16 else 8


def kernel_block(weight: Weight, wanted: int) -> int:
    """The block nearest to `wanted` that kernels take and that divides a row, 0 if none does.

    With `wanted` 0 as well.
    """
    features = weight.shape[_features_axis(weight)]
    fitting = [size for size in _BLOCKS if not features % size]
    return min(fitting, key=lambda size: abs(np.log2(size / wanted)), default=0) if wanted else 0


def refusal(weight: Weight) -> str | None:
    """Why no kernel reads this weight in packed form, or None."""
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
    """The axis of a weight that the numbers of a row lie along."""
    use = row_use(*weight.uses[0])
    return 1 if use is None else 1 - use.axis


def rows_of(weight: Weight, packed: Packed) -> PackedRows:
    """The packed rows of a weight that `refusal` has nothing against."""
    axis = 1 - _features_axis(weight)
    kind, blocks, coding = packed.coding.kind, packed.blocks, packed.coding
    outputs, features = weight.shape[axis], weight.shape[1 - axis]
    width = kernel_bits(kind)
    block = _block(blocks)
    repeats = blocks.size // block if blocks.size != features else -(-features // block)
    scale = np.repeat(_as_rows(coding.scale, axis), repeats, axis=1)
    doubled = kind.levels == 2
    middle = 1 if doubled else int(kind.middle)
    zero: NDArray[np.uint8] | None = None
    if coding.zero is not None:
        zero = np.repeat(_as_rows(coding.zero, axis), repeats, axis=1)
    elif middle != 1 << (width - 1):
        zero = np.full(scale.shape, middle, np.uint8)
    length = scale.shape[1] * block

    def build() -> NDArray[np.uint8]:
        codes = packed.codes().reshape(weight.shape)
        rows = codes.T if axis == 1 else codes
        filled = np.full((outputs, length), middle, np.uint8)
        filled[:, :features] = rows * 2 if doubled else rows
        return _packed(filled, width)

    return PackedRows(
        width,
        block,
        features,
        outputs,
        build,
        np.ascontiguousarray(scale / 2 if doubled else scale),
        None if zero is None else _packed(zero, width),
        packed.lazy,
        columns=axis == 1,
    )


def _block(blocks: Blocks) -> int:
    """The kernels' block for blocks of a divisor of the features, or of all of them."""
    fits = [size for size in _BLOCKS if not blocks.size % size]
    return max(fits, default=_CHANNEL_BLOCK)


def _as_rows(scale: NDArray[Any], axis: int) -> NDArray[Any]:
    """Scales or zero points of a view as `[outputs, blocks]`."""
    if axis == 1:  # [blocks, 1, outputs] or [1, outputs]
        return scale.reshape(-1, scale.shape[-1]).T
    return scale.reshape(scale.shape[0], -1)  # [outputs, blocks, 1] or [outputs, 1]


def _packed(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Neighbours in one byte, the first in the lowest bits; the last byte is filled up."""
    per = 8 // width
    short = -codes.shape[1] % per
    filled = np.pad(codes, ((0, 0), (0, short))) if short else codes
    packed = np.zeros((len(codes), filled.shape[1] // per), np.uint8)
    for place in range(per):
        packed |= filled[:, place::per] << np.uint8(place * width)
    return packed


class KernelWriter:
    """Puts kernels on packed weights in the place of float operators, in one model.

    Args:
        model: changed in place.
        names: all that are taken; new ones join.
        level: `EXACT` or `INT8`.
    """

    def __init__(self, model: ir.Model, names: Names, level: int) -> None:
        self._names, self._level = names, level
        model.opset_imports.setdefault(DOMAIN, 1)

    def write(self, weight: Weight, rows: PackedRows, base: str) -> None:
        """Replace every reader of a weight; the float weight goes."""
        graph = weight.graph
        codes = self._initializer(graph, rows, f"{base}.q")
        first = next(iter(graph))
        scale = add_initializer(graph, self._fresh(f"{base}.scale"), rows.scales)
        wanted = weight.tensor.dtype
        if rows.scales.dtype != wanted.numpy():
            scale = self._before(first, "Cast", [scale], {"to": int(wanted)})
        zero = None
        if rows.zeros is not None:
            zero = add_initializer(graph, self._fresh(f"{base}.zero"), rows.zeros)
        shaped = codes
        uses = [(node, row_use(node, port)) for node, port in weight.uses]
        if not all(use is not None and use.kind == "lookup" for _, use in uses):
            blob = rows.block * rows.bits // 8
            shape = np.array([rows.outputs, rows.blocks, blob], np.int64)
            to = add_initializer(graph, self._fresh(f"{base}.shape"), shape)
            shaped = self._before(first, "Reshape", [codes, to], {})
        for node, use in uses:
            assert use is not None
            if use.kind == "lookup":
                self._gather(node, codes, scale, zero, rows)
                continue
            for product in use.products:
                addend = None if use.addend is None else product.inputs[use.addend]
                self._product(product, shaped, scale, zero, rows, addend)
            if use.kind == "transposed":
                graph_of(node).remove(node, safe=True)
        del graph.initializers[weight.value.name or ""]

    def _product(
        self,
        node: ir.Node,
        codes: ir.Value,
        scale: ir.Value,
        zero: ir.Value | None,
        rows: PackedRows,
        addend: ir.Value | None,
    ) -> None:
        attributes = {
            "K": rows.features,
            "N": rows.outputs,
            "bits": rows.bits,
            "block_size": rows.block,
            "accuracy_level": self._level,
        }
        inputs = [node.inputs[0], codes, scale, *([] if zero is None else [zero])]
        kernel = ir.node("MatMulNBits", inputs, attributes, domain=DOMAIN, name=node.name)
        new = [kernel]
        if addend is not None:
            kernel.outputs[0].name = self._fresh(f"{node.name}_product")
            new.append(ir.node("Add", [kernel.outputs[0], addend], name=f"{node.name}_bias"))
        _replace(node, new)

    def _gather(
        self,
        node: ir.Node,
        codes: ir.Value,
        scale: ir.Value,
        zero: ir.Value | None,
        rows: PackedRows,
    ) -> None:
        attributes = {
            "bits": rows.bits,
            "block_size": rows.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [codes, node.inputs[1], scale, *([] if zero is None else [zero])]
        kernel = ir.node("GatherBlockQuantized", inputs, attributes, domain=DOMAIN, name=node.name)
        _replace(node, [kernel])

    def _initializer(self, graph: ir.Graph, rows: PackedRows, name: str) -> ir.Value:
        name = self._fresh(name)
        if not rows.lazy:
            return add_initializer(graph, name, rows.codes())
        shape = ir.Shape((rows.outputs, rows.blocks * rows.block * rows.bits // 8))
        dtype = ir.DataType.UINT8
        tensor = ir.LazyTensor(lambda: ir.Tensor(rows.codes(), name=name), dtype, shape, name=name)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
        graph.register_initializer(value)
        return value

    def _before(
        self, first: ir.Node, op_type: str, inputs: list[ir.Value], attributes: dict[str, int]
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        node.outputs[0].name = self._fresh("d")
        graph_of(first).insert_before(first, node)
        return node.outputs[0]

    def _fresh(self, base: str) -> str:
        return self._names.fresh(base)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _replace(node: ir.Node, new: list[ir.Node]) -> None:
    """Put nodes in the place of one; its output keeps name and type."""
    old, made = node.outputs[0], new[-1].outputs[0]
    made.name, made.type, made.shape = old.name, old.type, old.shape
    graph = graph_of(node)
    graph.insert_before(node, new)
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def product_model(rows: PackedRows) -> ir.Model:
    """`y = x @ w` by one kernel, to check it in a runtime: x float32[n, features]."""
    x = ir.Value(
        name="x", shape=ir.Shape(("n", rows.features)), type=ir.TensorType(ir.DataType.FLOAT)
    )
    w = ir.Value(name="w")
    node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape(("n", rows.outputs))
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 17}, name="product")
    w.const_value = ir.tensor(np.zeros((1, 1), np.float32), name="w")
    graph.register_initializer(w)
    model = ir.Model(graph, ir_version=8)
    weight = Weight(w, ir.tensor(np.zeros((1, 1), np.float32)), ((node, 1),), graph, 4)
    KernelWriter(model, Names(("x", "y", "w")), EXACT).write(weight, rows, "p")
    return model
