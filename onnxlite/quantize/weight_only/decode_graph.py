"""Decode packed weights to float with ordinary ONNX nodes.

    codes: uint8[1, n] -> BitShift left -> BitShift right -> Reshape -> Cast -> Sub zero
        -> Mul scale -> Reshape -> weight

Every input is an initializer, so ONNX Runtime folds the nodes when it loads the model, and
operators read float weights as before. Shifting left and back extracts a field of a byte with
operators of opset 11. Base 3 uses Div and Mod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.builder import GraphBuilder
from onnxlite.packing import TRITS, WeightType, pack, packed_bytes, per_word, word_type
from onnxlite.quantize.weight_only.codes import Blocks, Coding

#: Opset of the decoding nodes.
OPSET = 13
#: Approximate bytes in the file of one weight's nodes and names, and of a second field's.
NODE_BYTES, _FIELD_BYTES = 400, 250
#: Operators of the decoding nodes that are rare in float models.
DECODING_OPERATORS = frozenset({"BitShift", "Mod"})


@dataclass(frozen=True)
class PackedTensor:
    """One weight in packed form.

    Attributes:
        dtype: type of the float weight.
        blocks: shape of the weight, and the view of the scales.
        coding: scales and zero points.
        codes: returns the codes in the shape of the view; called when they are written.
        lazy: call `codes` only when the model is saved.
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

    def decoded(self) -> NDArray[np.float32]:
        """Dequantize the weight in NumPy."""
        return self.coding.decode(self.codes()).reshape(self.blocks.shape)


def packed_nbytes(blocks: Blocks, coding: Coding) -> int:
    """Return the bytes of codes, scales and zero points of a weight."""
    zero = 0 if coding.zero is None else coding.zero.nbytes
    return packed_bytes(coding.kind, prod(blocks.view)) + coding.scale.nbytes + zero


def node_bytes(kind: WeightType) -> int:
    """Return the approximate bytes of one weight's nodes in the file."""
    return NODE_BYTES + _FIELD_BYTES * (len(kind.fields) > 1)


def load_nbytes(packed: PackedTensor) -> int:
    """Return the bytes that ONNX Runtime holds while it decodes a weight.

    It keeps the result of every node until the whole graph is folded.
    """
    kind, blocks = packed.coding.kind, packed.blocks
    steps = [4, 4]  # the float codes, and their product with the scale
    if packed.coding.zero is not None or kind.fields != (8,):
        steps.append(4)
    if not kind.fields:
        steps += [4, 4, 4]
    for index, field in enumerate(kind.fields if kind.fields != (8,) else ()):
        # Two shifts and a reshape; 3-bit codes lie in 64-bit words. A second field adds a sum.
        steps += [word_type(field).itemsize] * 3 + [4, 4, 4] * (index > 0)
    if blocks.view != blocks.shape:
        steps.append(4)
    return sum(steps) * prod(blocks.view)


class Decoder:
    """Writer of decoding nodes in front of all other nodes of one graph.

    Args:
        builder: builder of the model, which is changed in place. It names no nodes: names
            would take a tenth of a small model's file.
        graph: the graph; by default the main graph.
    """

    def __init__(self, builder: GraphBuilder, graph: ir.Graph | None = None) -> None:
        self._start = builder.start(graph)

    def write(self, packed: PackedTensor, base: str) -> ir.Value:
        """Add the initializers and nodes of one weight and return the float value.

        Args:
            packed: the weight.
            base: prefix of the names of its initializers.
        """
        kind, blocks, coding = packed.coding.kind, packed.blocks, packed.coding
        value = self._codes(packed, base)
        if coding.zero is not None:
            zero = self._start.initializer(f"{base}.zero", coding.zero)
            value = self._op("Sub", [value, self._cast(zero, ir.DataType.FLOAT)])
        elif kind.fields != (8,):
            value = self._op("Sub", [value, self._shared("mid", np.float32(kind.middle))])
        scale = self._start.initializer(f"{base}.scale", coding.scale)
        if coding.scale.dtype != np.float32:
            scale = self._cast(scale, ir.DataType.FLOAT)
        value = self._op("Mul", [value, scale])
        if blocks.view != blocks.shape:
            value = self._reshape(value, blocks.shape)
        if packed.dtype != ir.DataType.FLOAT:
            value = self._cast(value, packed.dtype)
        return value

    def write_integers(self, packed: PackedTensor, base: str) -> ir.Value:
        """Add the nodes that decode a weight to int8 without scale, zero point 0."""
        middle = self._shared("mid", np.float32(packed.coding.kind.middle))
        value = self._op("Sub", [self._codes(packed, base), middle])
        return self._cast(value, ir.DataType.INT8)

    def _codes(self, packed: PackedTensor, base: str) -> ir.Value:
        """Add the nodes that unpack the codes to float32; 8-bit codes minus 128."""
        kind = packed.coding.kind
        if kind.fields == (8,):
            return self._cast(self._whole_bytes(packed, f"{base}.q"), ir.DataType.FLOAT)
        if not kind.fields:
            return self._trits(packed, base)
        total = self._field(packed, 0, base)
        for index in range(1, len(kind.fields)):
            value = self._field(packed, index, base)
            below = sum(kind.fields[:index])
            step = self._shared(f"step{below}", np.float32(1 << below))
            total = self._op("Add", [total, self._op("Mul", [value, step])])
        return total

    def _field(self, packed: PackedTensor, index: int, base: str) -> ir.Value:
        """Add the nodes that unpack one field of the codes to float32."""
        fields, view = packed.coding.kind.fields, packed.blocks.view
        field = fields[index]
        name = f"{base}.q{field}" if len(fields) > 1 else f"{base}.q"
        each, word = per_word(field), word_type(field)
        stored = self._words(packed, index, -(-prod(view) // each), name, word)
        width = 8 * word.itemsize
        places = (width - field - np.arange(each) * field).astype(word)
        left = self._shared(f"left{field}", places[:, None])
        right = self._shared(f"right{field}", np.array(width - field, word))
        up = self._op("BitShift", [stored, left], direction="LEFT")
        codes = self._op("BitShift", [up, right], direction="RIGHT")
        return self._cast(self._viewed(codes, view, each), ir.DataType.FLOAT)

    def _trits(self, packed: PackedTensor, base: str) -> ir.Value:
        view = packed.blocks.view
        words = -(-prod(view) // TRITS)
        stored = self._words(packed, 0, words, f"{base}.q", np.dtype(np.uint8))
        powers = self._shared("powers", (3 ** np.arange(TRITS)).astype(np.int32)[:, None])
        three = self._shared("three", np.array(3, np.int32))
        whole = self._cast(stored, ir.DataType.INT32)
        digits = self._op("Mod", [self._op("Div", [whole, powers]), three])
        return self._cast(self._viewed(digits, view, TRITS), ir.DataType.FLOAT)

    def _viewed(self, codes: ir.Value, view: tuple[int, ...], rows: int) -> ir.Value:
        count = prod(view)
        if count % rows:
            flat = self._reshape(codes, (-1,))
            ends = self._shared("end", np.array([count], np.int64))
            start = self._shared("start", np.array([0], np.int64))
            codes = self._op("Slice", [flat, start, ends])
        return self._reshape(codes, view)

    def _whole_bytes(self, packed: PackedTensor, name: str) -> ir.Value:
        signed = packed.coding.zero is None
        middle = np.uint8(packed.coding.kind.middle)

        def build() -> NDArray[Any]:
            # Adding 128 modulo 256 equals subtracting 128 in signed arithmetic.
            codes = packed.codes()
            return (codes + middle).view(np.int8) if signed else codes

        dtype = ir.DataType.INT8 if signed else ir.DataType.UINT8
        tensor = stored_tensor(build, dtype, packed.blocks.view, lazy=packed.lazy)
        return self._start.initializer(name, tensor)

    def _words(
        self, packed: PackedTensor, index: int, count: int, name: str, word: np.dtype[Any]
    ) -> ir.Value:
        def build() -> NDArray[Any]:
            return pack(packed.coding.kind, packed.codes())[index]

        dtype = ir.DataType.from_numpy(word)
        tensor = stored_tensor(build, dtype, (1, count), lazy=packed.lazy)
        return self._start.initializer(name, tensor)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self._op("Cast", [value], to=int(dtype))

    def _reshape(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        return self._op("Reshape", [value, self._shared("shape", np.array(shape, np.int64))])

    def _shared(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        return self._start.constant(name, array)

    def _op(self, op_type: str, inputs: Sequence[ir.Value], **attributes: int | str) -> ir.Value:
        return self._start.op(op_type, inputs, attributes, name="d")


def stored_tensor(
    build: Callable[[], NDArray[Any]], dtype: ir.DataType, shape: tuple[int, ...], *, lazy: bool
) -> ir.TensorProtocol:
    """Make a tensor of computed data; `lazy` computes them when the model is saved."""
    if lazy:
        return ir.LazyTensor(lambda: ir.Tensor(build(), dtype=dtype), dtype, ir.Shape(shape))
    return ir.Tensor(build(), dtype=dtype)


def decoder_model(weights: Sequence[PackedTensor], opset: int = OPSET) -> ir.Model:
    """Make a model without inputs that decodes packed weights, one output each: w0, w1, ..."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="decode")
    model = ir.Model(graph, ir_version=8)
    decoder = Decoder(GraphBuilder(model, naming="none"))
    for index, packed in enumerate(weights):
        value = decoder.write(packed, f"p{index}")
        value.name = f"w{index}"
        value.type, value.shape = ir.TensorType(packed.dtype), ir.Shape(packed.blocks.shape)
        graph.outputs.append(value)
    return model


def first_rows(packed: PackedTensor, numbers: int) -> PackedTensor:
    """Return the first rows of a weight, about `numbers` numbers.

    A weight with scales across rows is returned whole.
    """
    blocks, view = packed.blocks, packed.blocks.view
    rows = max(1, numbers // prod(view[1:]))
    if 0 in blocks.reduced or rows >= view[0] or blocks.shape[0] % view[0]:
        return packed
    shape = (blocks.shape[0] // view[0] * rows, *blocks.shape[1:])
    coding = packed.coding

    def part(array: NDArray[Any]) -> NDArray[Any]:
        return array if array.shape[0] == 1 else array[:rows]

    return replace(
        packed,
        blocks=replace(blocks, shape=shape, view=(rows, *view[1:])),
        coding=replace(
            coding,
            scale=part(coding.scale),
            zero=None if coding.zero is None else part(coding.zero),
        ),
        codes=lambda: packed.codes()[:rows],
    )
