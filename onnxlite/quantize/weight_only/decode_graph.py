"""Packed codes back to float weights, as ordinary ONNX nodes.

    codes: uint8[1, n] -> BitShift left -> BitShift right -> Reshape -> Cast -> Sub zero
        -> Mul scale -> Reshape -> weight

Every input is an initializer, so ONNX Runtime folds the chain when it loads the model, and
the operators get the same float weights as ever. A shift to the left and back cuts a field
out of a byte without a mask, with operators of opset 11. Base 3 takes Div and Mod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.graph import Names, add_initializer
from onnxlite.packing import TRITS, WeightType, pack, packed_bytes, per_word, word_type
from onnxlite.quantize.weight_only.codes import Blocks, Coding

#: What the nodes need.
OPSET = 13
#: Bytes of the nodes of one weight and of the names in them, about, and of a second field's.
NODE_BYTES, _FIELD_BYTES = 400, 250


@dataclass(frozen=True)
class Packed:
    """One weight in packed form.

    Attributes:
        dtype: of the float weight.
        blocks: its shape and the view that scales belong to.
        coding: how codes are read.
        codes: gives the codes, shaped like the view; called when they are written.
        lazy: `codes` is called when the model is saved, not now.
    """

    dtype: ir.DataType
    blocks: Blocks
    coding: Coding
    codes: Callable[[], NDArray[np.uint8]]
    lazy: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return packed_nbytes(self.blocks, self.coding)


def node_bytes(kind: WeightType) -> int:
    """About what the nodes of one weight weigh in the file."""
    return NODE_BYTES + _FIELD_BYTES * (len(kind.fields) > 1)


def load_nbytes(packed: Packed) -> int:
    """Bytes that ONNX Runtime holds while it decodes a weight: every step until all are done."""
    kind, blocks = packed.coding.kind, packed.blocks
    steps = [4, 4]  # floats, and floats times the scale
    if packed.coding.zero is not None or kind.fields != (8,):
        steps.append(4)
    if not kind.fields:
        steps += [4, 4, 4]
    for index, field in enumerate(kind.fields if kind.fields != (8,) else ()):
        # Two shifts and their view, 3 bits in words of 64; of a second field also a sum.
        steps += [word_type(field).itemsize] * 3 + [4, 4, 4] * (index > 0)
    if blocks.view != blocks.shape:
        steps.append(4)
    return sum(steps) * prod(blocks.view)


def packed_nbytes(blocks: Blocks, found: Coding) -> int:
    """Bytes of codes, scales and zero points of a weight."""
    zero = 0 if found.zero is None else found.zero.nbytes
    return packed_bytes(found.kind, prod(blocks.view)) + found.scale.nbytes + zero


class Decoder:
    """Writes the nodes for packed weights into one graph; small constants are shared.

    Args:
        graph: the nodes come first in it.
        names: all that are taken; new ones join.
    """

    def __init__(self, graph: ir.Graph, names: Names) -> None:
        self._graph, self._names = graph, names
        self._last: ir.Node | None = None
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def write(self, packed: Packed, base: str) -> ir.Value:
        """Add the initializers and nodes of one weight; returns the float value.

        Args:
            packed: what to decode.
            base: of the names of its initializers.
        """
        kind, blocks = packed.coding.kind, packed.blocks
        value = self._codes(packed, base)
        zero = packed.coding.zero
        if zero is not None:
            stored = self._put(f"{base}.zero", zero)
            value = self._node("Sub", [value, self._node("Cast", [stored], to=ir.DataType.FLOAT)])
        elif kind.fields != (8,):
            value = self._node("Sub", [value, self._shared("mid", np.float32(kind.middle))])
        scale = self._put(f"{base}.scale", packed.coding.scale)
        if packed.coding.scale.dtype != np.float32:
            scale = self._node("Cast", [scale], to=ir.DataType.FLOAT)
        value = self._node("Mul", [value, scale])
        if blocks.view != blocks.shape:
            value = self._reshaped(value, blocks.shape)
        if packed.dtype != ir.DataType.FLOAT:
            value = self._node("Cast", [value], to=packed.dtype)
        return value

    def write_integers(self, packed: Packed, base: str) -> ir.Value:
        """Add what decodes the whole numbers of a weight, without scale: int8 about zero."""
        mid = self._shared("mid", np.float32(packed.coding.kind.middle))
        value = self._node("Sub", [self._codes(packed, base), mid])
        return self._node("Cast", [value], to=ir.DataType.INT8)

    def _codes(self, packed: Packed, base: str) -> ir.Value:
        """The codes as float32 in the shape of the view; of 8 bits less their middle."""
        kind, view = packed.coding.kind, packed.blocks.view
        if kind.fields == (8,):
            signed = packed.coding.zero is None
            return self._floats(self._whole_bytes(packed, f"{base}.q", signed=signed))
        if not kind.fields:
            return self._trits(packed, base)
        total: ir.Value | None = None
        below = 0
        for index, field in enumerate(kind.fields):
            name = f"{base}.q{field}" if len(kind.fields) > 1 else f"{base}.q"
            each, word = per_word(field), word_type(field)
            stored = self._part(packed, index, -(-prod(view) // each), name, word)
            width = 8 * word.itemsize
            places = (width - field - np.arange(each) * field).astype(word)
            left = self._shared(f"left{field}", places[:, None])
            right = self._shared(f"right{field}", np.array(width - field, word))
            up = self._node("BitShift", [stored, left], direction="LEFT")
            codes = self._node("BitShift", [up, right], direction="RIGHT")
            value = self._floats(self._viewed(codes, view, each))
            if total is not None:
                step = self._shared(f"step{below}", np.float32(1 << below))
                value = self._node("Add", [total, self._node("Mul", [value, step])])
            total = value
            below += field
        assert total is not None
        return total

    def _trits(self, packed: Packed, base: str) -> ir.Value:
        view = packed.blocks.view
        words = -(-prod(view) // TRITS)
        stored = self._part(packed, 0, words, f"{base}.q", np.dtype(np.uint8))
        powers = self._shared("powers", (3 ** np.arange(TRITS)).astype(np.int32)[:, None])
        three = self._shared("three", np.array(3, np.int32))
        whole = self._node("Cast", [stored], to=ir.DataType.INT32)
        digits = self._node("Mod", [self._node("Div", [whole, powers]), three])
        return self._floats(self._viewed(digits, view, TRITS))

    def _viewed(self, codes: ir.Value, view: tuple[int, ...], rows: int) -> ir.Value:
        count = int(np.prod(view))
        if count % rows:
            flat = self._reshaped(codes, (-1,))
            ends = self._shared("end", np.array([count], np.int64))
            start = self._shared("start", np.array([0], np.int64))
            codes = self._node("Slice", [flat, start, ends])
        return self._reshaped(codes, view)

    def _whole_bytes(self, packed: Packed, name: str, *, signed: bool) -> ir.Value:
        middle = np.uint8(packed.coding.kind.middle)

        def build() -> NDArray[Any]:
            # Adding 128 modulo 256 is subtracting it, as a signed number.
            codes = packed.codes()
            return (codes + middle).view(np.int8) if signed else codes

        dtype = ir.DataType.INT8 if signed else ir.DataType.UINT8
        return self._stored(build, dtype, packed.blocks.view, name, packed.lazy)

    def _part(
        self, packed: Packed, index: int, words: int, name: str, word: np.dtype[Any]
    ) -> ir.Value:
        def build() -> NDArray[Any]:
            return pack(packed.coding.kind, packed.codes())[index]

        return self._stored(build, ir.DataType.from_numpy(word), (1, words), name, packed.lazy)

    def _stored(
        self,
        build: Callable[[], NDArray[Any]],
        dtype: ir.DataType,
        shape: tuple[int, ...],
        name: str,
        lazy: bool,
    ) -> ir.Value:
        name = self._names.fresh(name)
        if not lazy:
            return add_initializer(self._graph, name, build())
        tensor = ir.LazyTensor(
            lambda: ir.Tensor(build(), dtype=dtype, name=name), dtype, ir.Shape(shape), name=name
        )
        value = ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def _floats(self, value: ir.Value) -> ir.Value:
        return self._node("Cast", [value], to=ir.DataType.FLOAT)

    def _reshaped(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        return self._node("Reshape", [value, self._shared("shape", np.array(shape, np.int64))])

    def _put(self, name: str, array: NDArray[Any]) -> ir.Value:
        return add_initializer(self._graph, self._names.fresh(name), array)

    def _shared(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        array = np.asarray(array)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._put(name, array)
        return self._constants[key]

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        *,
        to: ir.DataType | None = None,
        direction: str | None = None,
    ) -> ir.Value:
        attributes: dict[str, int | str] = {}
        if to is not None:
            attributes["to"] = int(to)
        if direction is not None:
            attributes["direction"] = direction
        # Without names and value_info, which would be a tenth of a small model's file.
        node = ir.node(op_type, list(inputs), attributes)
        node.outputs[0].name = self._names.fresh("d")
        first = next(iter(self._graph), None)
        if self._last is not None:
            self._graph.insert_after(self._last, node)
        elif first is not None:
            self._graph.insert_before(first, node)
        else:
            self._graph.append(node)
        self._last = node
        return node.outputs[0]


def decoder_model(packed: Packed, opset: int) -> ir.Model:
    """A model of no inputs that computes one packed weight, to check it in a runtime."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="decode")
    value = Decoder(graph, Names()).write(packed, "w")
    value.type, value.shape = ir.TensorType(packed.dtype), ir.Shape(packed.blocks.shape)
    graph.outputs.append(value)
    return ir.Model(graph, ir_version=8)


def first_rows(packed: Packed, numbers: int) -> Packed:
    """The first rows of a large weight as one of their own; all of it where rows share scales."""
    blocks, view = packed.blocks, packed.blocks.view
    rows = max(1, numbers // prod(view[1:]))
    if 0 in blocks.reduced or rows >= view[0] or blocks.shape[0] % view[0]:
        return packed
    shape = (blocks.shape[0] // view[0] * rows, *blocks.shape[1:])
    found = packed.coding

    def part(array: NDArray[Any]) -> NDArray[Any]:
        return array if array.shape[0] == 1 else array[:rows]

    zero = None if found.zero is None else part(found.zero)
    return replace(
        packed,
        blocks=replace(blocks, shape=shape, view=(rows, *view[1:])),
        coding=replace(found, scale=part(found.scale), zero=zero),
        codes=lambda: packed.codes()[:rows],
    )
