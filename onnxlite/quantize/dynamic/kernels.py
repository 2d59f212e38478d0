"""Integer kernels with activation scales computed at run time.

    integer  y = DynamicQuantizeLinear(x) @ int8[k, n], scaled back: one scale for all of x
             (standard operators; ONNX Runtime fuses them into one)
    blocks   y = MatMulNBits(x): 8-bit weights and activations with a scale per block of k
    lstm     LSTM(x, W[d, 4h, i], R[d, 4h, h], ...)  becomes
             DynamicQuantizeLSTM(x, W8[d, i, 4h], R8[d, h, 4h], ..., a scale per gate and unit):
             x and the hidden state are quantized in each step, gates are computed in float

`blocks` is more accurate and fast for single rows; `integer` is fast for many rows. The operator
table lists the kernels of each operator (`OpSpec.dynamic_kernels`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.analysis.lineage import record_layers
from onnxlite.builder import GraphBuilder, Place, replace_node
from onnxlite.errors import OptionError
from onnxlite.graph import attribute, const_array, const_tensor, rank
from onnxlite.ops import CONTRIB_DOMAIN, Product, find_product, spec_of
from onnxlite.quantize.core.integer_copies import IntegerCopies, IntegerCopy
from onnxlite.quantize.core.qtypes import INT8, dequantize
from onnxlite.quantize.core.targets import TARGETS, Target, target_named
from onnxlite.quantize.core.weights import quantize_weight

#: Pairs of a float32 weight and its dequantized integers.
WeightPairs: TypeAlias = list[tuple[NDArray[Any], NDArray[Any]]]

#: Block sizes of MatMulNBits, in the order of preference.
_BLOCKS = (128, 64, 32)
#: Default zero point of MatMulNBits for 8 bits.
_MIDDLE = 128
#: `accuracy_level` of MatMulNBits for int8 activations.
_INT8_ACTIVATIONS = 4
#: Ports of LSTM: X, W, R, B, sequence_lens, initial_h, initial_c, P.
_LSTM_WEIGHTS = (1, 2)
_LSTM_PORTS = 8
_FLOAT = {"to": int(ir.DataType.FLOAT)}


def dynamic_target(name: str) -> Target:
    """Return a target with dynamic kernels by name.

    Raises:
        OptionError: the target has none; the message lists those that have.
    """
    known = [row.name for row in TARGETS.values() if row.ort_cpu is not None]
    if name not in known:
        raise OptionError(
            f"target {name!r} has no kernels for dynamic quantization: choose one of "
            f"{', '.join(known)}"
        )
    return target_named(name)


class LayerWriter:
    """Writer that replaces layers of one model by integer kernels.

    All readers of a value read one conversion to integers, so layers must be replaced in
    topological order.

    Args:
        model: the model, changed in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self.builder = GraphBuilder(model)
        #: The integers of weights, for what still reads them as float.
        self.copies = IntegerCopies()
        self._converted: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ...]] = {}

    def before(self, node: ir.Node) -> Place:
        """Return the place in front of `node`."""
        return self.builder.before(node)

    def replaced(self, node: ir.Node, result: ir.Value) -> None:
        """Record that the node that makes `result` does a layer's work."""
        made = result.producer()
        assert made is not None
        record_layers(self.builder.model, [(node.name or "", made.name or "")])

    def stored(self, weight: ir.Value, name: str, array: NDArray[Any], at: Place) -> ir.Value:
        """Store integers or scales of a weight in its graph, once for all bodies that read it."""
        graph = weight.graph if isinstance(weight.graph, ir.Graph) else at.graph
        return self.builder.constant(graph, name, array)

    def quantized(self, at: Place, data: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Quantize data with a scale that is computed at run time.

        Returns:
            Integers, scale and zero point: `uint8` like `data`, `float32[]`, `uint8[]`.
        """
        key = (at.graph, data)
        if key not in self._converted:
            self._converted[key] = at.ops(
                "DynamicQuantizeLinear", [data], name=f"{data.name}_dynamic", outputs=3
            )
        integers, scale, zero = self._converted[key]
        return integers, scale, zero


@dataclass(frozen=True)
class Kernel:
    """Integer kernel for a layer.

    Attributes:
        name: its name in options and reports.
        refuses: returns the reason why it cannot run a node on a target, or None.
        write: replaces the node in place and returns its weights.
    """

    name: str
    refuses: Callable[[ir.Node, Target], str | None]
    write: Callable[[LayerWriter, ir.Node, Target], WeightPairs]


def kernels_of(node: ir.Node) -> tuple[Kernel, ...]:
    """Return the kernels of an operator, in the order of preference."""
    return tuple(KERNELS[name] for name in spec_of(node).dynamic_kernels)


def _refuse_product(node: ir.Node, _target: Target) -> str | None:
    found = find_product(node)
    return found if isinstance(found, str) else None


def _write_integer(writer: LayerWriter, node: ir.Node, target: Target) -> WeightPairs:
    product, at = _product(node), writer.before(node)
    matrix = product.matrix()
    name = product.weight.name or "weight"
    right = product.side == "right"
    # Output channels are the columns of a right-hand matrix and the rows of a left-hand one.
    across, along = (-1, -2) if right else (-2, -1)
    channel, reduction = across % matrix.ndim, along % matrix.ndim
    integers, params = quantize_weight(
        matrix,
        INT8,
        channel_axis=channel,
        reduction_axes=(reduction,),
        avoid_saturation=target.avoid_saturation,
    )
    data, data_scale, data_zero = writer.quantized(at, product.data)
    stored = writer.stored(product.weight, f"{name}_q", integers, at)
    base = node.name or node.op_type
    scale = params.scale if right else params.scale[:, None]
    weight_scale = writer.stored(product.weight, f"{name}_scale", scale, at)
    decoded = IntegerCopy(stored, scale / np.float32(product.alpha), product.transposed)
    writer.copies.add(product.weight, decoded)
    operands = [data, stored, data_zero] if right else [stored, data, None, data_zero]
    sums = at.op("MatMulInteger", operands, name=f"{base}_integer")
    writer.replaced(node, sums)
    sums.type, sums.shape = ir.TensorType(ir.DataType.INT32), node.outputs[0].shape
    real = at.op("Cast", [sums], _FLOAT, name=f"{base}_real")
    if right:
        both = at.op("Mul", [data_scale, weight_scale], name=f"{base}_scale")
    else:
        # Not in the form that ONNX Runtime fuses: its fused kernel wants uint8 on the left
        # and a scale per column.
        real = at.op("Mul", [real, data_scale], name=f"{base}_half_scaled")
        both = weight_scale
    result = at.op("Mul", [real, both], name=f"{base}_scaled")
    replace_node(node, [_biased(at, product, result)])
    return [(matrix, dequantize(integers, params))]


def _refuse_blocks(node: ir.Node, target: Target) -> str | None:
    if reason := _refuse_product(node, target):
        return reason
    product = _product(node)
    if target.avoid_saturation:
        return "MatMulNBits sums pairs of products in 16 bits, which saturate without VNNI"
    if product.side == "left" or rank(product.weight) != 2:
        return "MatMulNBits needs a single weight matrix on the right-hand side"
    if (rank(product.data) or 0) < 2:
        return "MatMulNBits needs data with at least two axes"
    return None


def _write_blocks(writer: LayerWriter, node: ir.Node, _target: Target) -> WeightPairs:
    product, at = _product(node), writer.before(node)
    matrix = product.matrix()
    name = product.weight.name or "weight"
    k, n = matrix.shape
    block = next((size for size in _BLOCKS if k % size == 0), _BLOCKS[-1])
    count = -(-k // block)
    padded = np.zeros((n, count * block), np.float32)
    padded[:, :k] = matrix.T
    rows = padded.reshape(n, count, block)
    bound = np.abs(rows).max(axis=2) / INT8.qmax
    scale = np.where(bound > np.finfo(np.float32).tiny, bound, 1).astype(np.float32)
    integers = np.clip(np.rint(rows / scale[..., None]), INT8.qmin, INT8.qmax)
    codes = (integers + _MIDDLE).astype(np.uint8)
    stored = writer.stored(product.weight, f"{name}_q", codes, at)
    scales = writer.stored(product.weight, f"{name}_scale", scale, at)
    if not k % block:
        spread = scale[..., None] / np.float32(product.alpha)
        decoded = IntegerCopy(stored, spread, not product.transposed, _MIDDLE, (n, k))
        writer.copies.add(product.weight, decoded)
    result = at.op(
        "MatMulNBits",
        [product.data, stored, scales],
        {"K": k, "N": n, "bits": 8, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS},
        name=f"{node.name}_blocks",
        domain=CONTRIB_DOMAIN,
    )
    writer.replaced(node, result)
    replace_node(node, [_biased(at, product, result)])
    back = (integers * scale[..., None]).reshape(n, -1)[:, :k].T
    return [(matrix, back)]


def _biased(at: Place, product: Product, result: ir.Value) -> ir.Value:
    """Add the bias of a Gemm to the result of the product."""
    bias, node = product.bias, product.node
    if bias is None:
        return result
    base = f"{node.name}_bias"
    if product.beta != 1.0:
        array = const_array(bias)
        factor = np.float32(product.beta)
        if array is not None:
            bias = at.constant(base, (array * factor).astype(np.float32))
        else:
            bias = at.op("Mul", [bias, at.constant(f"{base}_beta", np.array(factor))], name=base)
    result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
    return at.op("Add", [result, bias], name=f"{node.name}_biased")


def _product(node: ir.Node) -> Product:
    found = find_product(node)
    assert isinstance(found, Product)
    return found


def _refuse_lstm(node: ir.Node, _target: Target) -> str | None:
    for port in _LSTM_WEIGHTS:
        tensor = const_tensor(node.inputs[port])
        if tensor is None:
            return "its weights are computed at run time"
        if tensor.dtype != ir.DataType.FLOAT:
            return f"its weight {tensor.name!r} is {tensor.dtype}, not float32"
    if attribute(node, "layout", 0):
        return "DynamicQuantizeLSTM has no batch-first layout"
    return None


def _write_lstm(writer: LayerWriter, node: ir.Node, target: Target) -> WeightPairs:
    at = writer.before(node)
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * (_LSTM_PORTS - len(node.inputs))]
    pairs = []
    scales: list[ir.Value | None] = []
    for port in _LSTM_WEIGHTS:
        value = node.inputs[port]
        weight = const_array(value)
        assert weight is not None
        assert value is not None
        name = value.name or "weight"
        # Each direction has its own scales.
        parts = [
            quantize_weight(
                np.ascontiguousarray(direction.T),
                INT8,
                channel_axis=1,
                reduction_axes=(0,),
                avoid_saturation=target.avoid_saturation,
            )
            for direction in weight
        ]
        integers = np.stack([part[0] for part in parts])
        scale = np.stack([part[1].scale for part in parts])
        inputs[port] = at.constant(f"{name}_q", integers)
        scales.append(at.constant(f"{name}_scale", scale))
        scales.append(at.constant(f"{name}_zero", np.zeros(scale.shape, np.int8)))
        back = np.stack([dequantize(*part) for part in parts])
        pairs.append((weight.transpose(0, 2, 1), back))
    outputs = at.ops(
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        {name: attr.value for name, attr in node.attributes.items() if name != "layout"},
        name=f"{node.name}_integer",
        outputs=len(node.outputs),
        domain=CONTRIB_DOMAIN,
    )
    writer.replaced(node, outputs[0])
    for old, new in zip(node.outputs, outputs, strict=True):
        new.name = new.name if old.name else ""
    replace_node(node, outputs)
    return pairs


INTEGER = Kernel("integer", _refuse_product, _write_integer)
BLOCKS = Kernel("blocks", _refuse_blocks, _write_blocks)
LSTM = Kernel("lstm", _refuse_lstm, _write_lstm)

#: Kernels by name; the operator table refers to these names.
KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {kernel.name: kernel for kernel in (INTEGER, BLOCKS, LSTM)}
)
