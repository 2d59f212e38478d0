"""Integer kernels with activation scales found at run time, and how a layer is given one.

    integer  y = DynamicQuantizeLinear(x) @ int8[k, n], scaled back: one scale for all of x
             (standard operators; ONNX Runtime fuses them into one)
    blocks   y = MatMulNBits(x): 8-bit weights and activations with a scale per block of k
    lstm     LSTM(x, W[d, 4h, i], R[d, 4h, h], ...)  becomes
             DynamicQuantizeLSTM(x, W8[d, i, 4h], R8[d, h, 4h], ..., a scale per gate and unit):
             x and the hidden state are quantized in each step, gates are computed in float

`blocks` keeps more accuracy and is fast for single rows; `integer` is fast for many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.graph import attribute, const_array, const_tensor, rank
from onnxlite.ops import Product, find_product
from onnxlite.quantize.core.qtypes import INT8, dequantize
from onnxlite.quantize.core.targets import TARGETS, Target, target_named
from onnxlite.quantize.core.weights import quantize_weight
from onnxlite.quantize.dynamic.writer import MICROSOFT, Writer

#: Ports of LSTM: X, W, R, B, sequence_lens, initial_h, initial_c, P.
_WEIGHTS = (1, 2)
_PORTS = 8


def refuse_lstm(node: ir.Node, _target: Target) -> str | None:
    """Why an LSTM node cannot run on integers, or None."""
    for port in _WEIGHTS:
        tensor = const_tensor(node.inputs[port])
        if tensor is None:
            return "its weights are computed at run time"
        if tensor.dtype != ir.DataType.FLOAT:
            return f"its weight {tensor.name!r} is {tensor.dtype}, not float32"
    if attribute(node, "layout", 0):
        return "DynamicQuantizeLSTM has no batch-first layout"
    return None


def write_lstm(
    writer: Writer, node: ir.Node, target: Target
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Replace an LSTM node; returns both weights and what their integers stand for."""
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * (_PORTS - len(node.inputs))]
    pairs = []
    scales: list[ir.Value | None] = []
    for port in _WEIGHTS:
        value = node.inputs[port]
        weight = const_array(value)
        assert weight is not None
        assert value is not None
        name = value.name or "weight"
        # Directions have scales of their own, so each is quantized by itself.
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
        inputs[port] = writer.constant(node, f"{name}_q", integers)
        scales.append(writer.constant(node, f"{name}_scale", scale))
        scales.append(writer.constant(node, f"{name}_zero", np.zeros(scale.shape, np.int8)))
        back = np.stack([dequantize(*part) for part in parts])
        pairs.append((weight.transpose(0, 2, 1), back))
    outputs = writer.node(
        node,
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        f"{node.name}_integer",
        attributes={name: attr.value for name, attr in node.attributes.items() if name != "layout"},
        domain=MICROSOFT,
        outputs=len(node.outputs),
    )
    for old, new in zip(node.outputs, outputs, strict=True):
        new.name = new.name if old.name else ""
    writer.replace(node, outputs)
    return pairs


#: Of MatMulNBits: the largest block that does not pad the weight by more than it saves.
_BLOCKS = (128, 64, 32)
#: MatMulNBits' `accuracy_level` for which activations are quantized to 8 bits.
_INT8_ACTIVATIONS = 4


def dynamic_target(name: str) -> Target:
    """The row of a target that has these kernels; raises `OptionError` that lists the names."""
    known = [row.name for row in TARGETS.values() if row.ort_cpu is not None]
    if name not in known:
        raise OptionError(
            f"no target {name!r} for scales found at run time: choose one of {', '.join(known)}"
        )
    return target_named(name)


@dataclass(frozen=True)
class Kernel:
    """One way to run a layer on integers.

    Attributes:
        name: in options and reports.
        refuses: why it cannot run a node for a target, or None.
        write: replaces the node; returns the weights as float32 that the integers stand for.
    """

    name: str
    refuses: Callable[[ir.Node, Target], str | None]
    write: Callable[[Writer, ir.Node, Target], list[tuple[NDArray[Any], NDArray[Any]]]]


def _refuse_product(node: ir.Node, _target: Target) -> str | None:
    found = find_product(node)
    return found if isinstance(found, str) else None


def _write_integer(
    writer: Writer, node: ir.Node, target: Target
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    product = _product(node)
    matrix = product.matrix()
    name = product.weight.name or "weight"
    # Output channels are the columns of a matrix on the right and the rows of one on the left.
    across, along = (-1, -2) if product.side == "right" else (-2, -1)
    channel, reduction = across % matrix.ndim, along % matrix.ndim
    integers, params = quantize_weight(
        matrix,
        INT8,
        channel_axis=channel,
        reduction_axes=(reduction,),
        avoid_saturation=target.avoid_saturation,
    )
    data, data_scale, data_zero = writer.quantized(node, product.data)
    stored = writer.constant(node, f"{name}_q", integers)
    base = node.name or node.op_type
    right = product.side == "right"
    scale = params.scale if right else params.scale[:, None]
    weight_scale = writer.constant(node, f"{name}_scale", scale)
    operands = [data, stored, data_zero] if right else [stored, data, None, data_zero]
    (sums,) = writer.node(node, "MatMulInteger", operands, f"{base}_integer")
    sums.type, sums.shape = ir.TensorType(ir.DataType.INT32), node.outputs[0].shape
    (real,) = writer.node(node, "Cast", [sums], f"{base}_real", attributes={"to": 1})
    if right:
        (both,) = writer.node(node, "Mul", [data_scale, weight_scale], f"{base}_scale")
    else:
        # Not in the form that ONNX Runtime fuses: its fused kernel wants uint8 on the left
        # and a scale per column.
        (real,) = writer.node(node, "Mul", [real, data_scale], f"{base}_half_scaled")
        both = weight_scale
    (result,) = writer.node(node, "Mul", [real, both], f"{base}_scaled")
    writer.replace(node, [_biased(writer, product, result)])
    return [(matrix, dequantize(integers, params))]


def _refuse_blocks(node: ir.Node, target: Target) -> str | None:
    if reason := _refuse_product(node, target):
        return reason
    product = _product(node)
    if target.avoid_saturation:
        return "MatMulNBits has no bound on pairs of weights, which saturate without VNNI"
    if product.side == "left" or rank(product.weight) != 2:
        return "MatMulNBits takes one matrix on the right"
    if (rank(product.data) or 0) < 2:
        return "MatMulNBits takes data with at least two axes"
    return None


def _write_blocks(
    writer: Writer, node: ir.Node, _target: Target
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    product = _product(node)
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
    middle = 128  # the zero point that MatMulNBits takes for 8 bits where none is given
    (result,) = writer.node(
        node,
        "MatMulNBits",
        [
            product.data,
            writer.constant(node, f"{name}_q", (integers + middle).astype(np.uint8)),
            writer.constant(node, f"{name}_scale", scale),
        ],
        f"{node.name}_blocks",
        domain=MICROSOFT,
        attributes={
            "K": k,
            "N": n,
            "bits": 8,
            "block_size": block,
            "accuracy_level": _INT8_ACTIVATIONS,
        },
    )
    writer.replace(node, [_biased(writer, product, result)])
    back = (integers * scale[..., None]).reshape(n, -1)[:, :k].T
    return [(matrix, back)]


def _biased(writer: Writer, product: Product, result: ir.Value) -> ir.Value:
    """`result` and what a Gemm adds to it."""
    bias = product.bias
    if bias is None:
        return result
    base = f"{product.node.name}_bias"
    if product.beta != 1.0:
        array = const_array(bias)
        factor = np.float32(product.beta)
        if array is not None:
            bias = writer.constant(product.node, base, (array * factor).astype(np.float32))
        else:
            beta = writer.constant(product.node, f"{base}_beta", np.array(factor))
            (bias,) = writer.node(product.node, "Mul", [bias, beta], base)
    (result.type, result.shape) = product.node.outputs[0].type, product.node.outputs[0].shape
    (result,) = writer.node(product.node, "Add", [result, bias], f"{product.node.name}_biased")
    return result


def _product(node: ir.Node) -> Product:
    found = find_product(node)
    assert isinstance(found, Product)
    return found


INTEGER = Kernel("integer", _refuse_product, _write_integer)
BLOCKS = Kernel("blocks", _refuse_blocks, _write_blocks)
LSTM = Kernel("lstm", refuse_lstm, write_lstm)

#: The kernels that may run an operator, the first one first where they are equally fast.
KERNELS: Mapping[str, tuple[Kernel, ...]] = MappingProxyType(
    {"MatMul": (INTEGER, BLOCKS), "Gemm": (INTEGER, BLOCKS), "LSTM": (LSTM,)}
)
