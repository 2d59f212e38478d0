"""What onnxlite knows of one operator: the record behind every row of the operator table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.ops.tracker import ChannelRule

#: Gives the concrete shape of a value, None where it is unknown.
ShapeOf = Callable[[ir.Value | None], tuple[int, ...] | None]


@dataclass(frozen=True, kw_only=True)
class QuantRule:
    """How an operator is quantized for ONNX Runtime's CPU kernels.

    Attributes:
        kind: `"compute"` has weights and is why one quantizes at all; `"integer"` has an
            8-bit kernel and is quantized when its neighbours are; `"layout"` moves 8-bit
            values without looking at them.
        inputs: the activation ports; None means every port.
        weight: the port whose constant is quantized ahead of time.
        channel_axis: the weight's output-channel axis (per-channel scales), or None where
            the node computes in a way that leaves none.
        reduction_axes: the weight's axes over which the kernel adds products, outermost
            first, in the order in which they lie in memory there.
        bias: the port of the int32 bias.
        shared_scale: output and data inputs have one scale and zero point.
        float_output: there is a kernel from integers to float, so that the output needs no
            integer form of its own.
        fixed_range: the real range of the output, known without data.
        refuses: why this node cannot be quantized although its operator can, or None.
        computes: for `"layout"`: whether this node makes new values out of its input's, which
            integers would round; None means never.
    """

    kind: Literal["compute", "integer", "layout"]
    inputs: tuple[int, ...] | None = (0,)
    weight: int | None = None
    channel_axis: Callable[[ir.Node], int | None] | None = None
    reduction_axes: Callable[[ir.Node], tuple[int, ...]] | None = None
    bias: int | None = None
    shared_scale: bool = False
    float_output: bool = False
    fixed_range: tuple[float, float] | None = None
    refuses: Callable[[ir.Node], str | None] | None = None
    computes: Callable[[ir.Node], bool] | None = None

    def ports(self, node: ir.Node) -> tuple[int, ...]:
        """The activation ports that `node` really has."""
        present = [i for i, value in enumerate(node.inputs) if value is not None]
        return tuple(i for i in present if self.inputs is None or i in self.inputs)


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """One operator of the table.

    Attributes:
        op_type: operator name in the standard domain.
        quant: how it is quantized; None means never.
        macs: multiply-accumulates of a node, None where a shape is unknown; an operator
            without the entry costs none (its work is not multiplications by weights).
        weights: ports that hold trained parameters when constant (pruned, counted).
        output_range: the range an activation clips to, `(low, high)` with infinities.
        output_axis: of a constant at a weight port, the axis that output channels lie along.
        summed_axes: of a constant at a weight port, the axes whose products are added up,
            ascending.
        gain: the port of a normalisation's scale per channel.
        shifts: ports where a constant may be a trained shift, as of the Add behind a product.
        channels: what it does to channels (`ops.tracker`); None pins all that it touches.
        linear: the output scales with the input: `f(a*x) == a*f(x)` for a > 0.
        sums: the output is the sum of all inputs, so it scales with them together.
        data_channels: axis and size of the data's channels, for an operator whose float
            weights ONNX Runtime puts on integers unasked (`quantize/core/ort_workarounds.py`).
    """

    op_type: str
    quant: QuantRule | None = None
    macs: Callable[[ir.Node, ShapeOf], int | None] | None = None
    weights: tuple[int, ...] = ()
    output_range: Callable[[ir.Node], tuple[float, float] | None] | None = None
    linear: bool = False
    sums: bool = False
    output_axis: Callable[[ir.Node, int], int | None] | None = None
    summed_axes: Callable[[ir.Node, int], tuple[int, ...]] | None = None
    gain: int | None = None
    shifts: tuple[int, ...] = ()
    channels: ChannelRule | None = None
    data_channels: Callable[[ir.Node], tuple[int, int] | None] | None = None
