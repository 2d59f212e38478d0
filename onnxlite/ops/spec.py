"""Records of the operator table: one row per operator, its quantization and its integer form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxlite.ops.geometry import Geometry
from onnxlite.ops.noise import NoisePlace
from onnxlite.ops.tracker import ChannelRule

#: Domain of ONNX Runtime's own operators.
CONTRIB_DOMAIN = "com.microsoft"

#: Gives the concrete shape of a value, None where it is unknown.
ShapeOf = Callable[[ir.Value | None], tuple[int, ...] | None]


@dataclass(frozen=True)
class Quantized:
    """One quantized value: its integers, and the scale and zero point that they have."""

    integers: ir.Value | None
    scale: ir.Value | None
    zero_point: ir.Value | None

    @property
    def three(self) -> list[ir.Value | None]:
        """In the order in which most operators take them."""
        return [self.integers, self.scale, self.zero_point]

    @property
    def parameters(self) -> list[ir.Value | None]:
        """Scale and zero point; of an output, whose integers the operator makes."""
        return [self.scale, self.zero_point]


@dataclass(frozen=True, kw_only=True)
class IntegerForm:
    """An integer operator and how its inputs are ordered.

    Attributes:
        op_type: its name.
        domain: where it is defined.
        arrange: from the quantized inputs (a bias last) and the output to its inputs.
        attributes: those of the float operator that it keeps; None keeps all.
        records_opset: it has an attribute that says whose opset's meaning it has.
    """

    op_type: str
    domain: str
    arrange: Callable[[Sequence[Quantized], Quantized], list[ir.Value | None]]
    attributes: frozenset[str] | None = None
    records_opset: bool = False


def integer_operands(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    """Arrange every input with its scale and zero point, then those of the output."""
    return [value for operand in inputs for value in operand.three] + output.parameters


def contrib_form(op_type: str, *, records_opset: bool = False) -> IntegerForm:
    """Return an integer form among ONNX Runtime's own operators, with `integer_operands`."""
    return IntegerForm(
        op_type=op_type,
        domain=CONTRIB_DOMAIN,
        arrange=integer_operands,
        records_opset=records_opset,
    )


@dataclass(frozen=True)
class RowUse:
    """Use of the rows of a matrix by a node.

    Attributes:
        kind: `"product"` multiplies data by it, `"lookup"` takes rows by index, `"transposed"`
            turns it for products and nothing else.
        axis: the matrix's axis that rows are counted along.
        addend: the port of what a product adds, None if there is nothing.
        products: the nodes that multiply: the node itself, or the readers of what it turned.
    """

    kind: Literal["product", "lookup", "transposed"]
    axis: int
    addend: int | None = None
    products: tuple[ir.Node, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QuantRule:
    """Quantization of an operator for ONNX Runtime's CPU kernels.

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
        integer_form: the operator from integers to integers that does the same in one node.
        float_form: the same from integers to float.
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
    integer_form: IntegerForm | None = None
    float_form: IntegerForm | None = None

    def ports(self, node: ir.Node) -> tuple[int, ...]:
        """The activation ports that `node` really has."""
        present = [i for i, value in enumerate(node.inputs) if value is not None]
        return tuple(i for i in present if self.inputs is None or i in self.inputs)


#: The output holds only values of the input, so both have one scale.
MOVES = QuantRule(kind="layout", shared_scale=True)


@dataclass(frozen=True)
class RandomRule:
    """Random draw of an operator.

    Attributes:
        tie: builds the same with tied noise; gives the values that replace the node's outputs.
        draws: tells the nodes that draw from those in a mode without noise.
    """

    tie: Callable[[ir.Node, NoisePlace], Sequence[ir.Value]]
    draws: Callable[[ir.Node], bool] = lambda _node: True


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """One operator of the table.

    Attributes:
        op_type: operator name.
        domain: where it is defined; "" is the standard domain.
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
        geometry: of a constant of the given shape at a weight port: how it multiplies; a string
            says why it cannot be fitted. None for operators that are no linear layers.
        channel_axis: the axis of the output that the channels of a linear layer lie along.
        outputs_per_group: the weight's output axis counts the channels of one group.
        rows: how a node uses the rows of the matrix at a port; None if it does not, or only a
            part of it.
        table_axes: axes along which a node takes entries of its first input, which may be a
            table; None if they are computed.
        dynamic_kernels: kernels with scales found at run time (`quantize/dynamic`), best first.
        affine: ports of scale and shift, where they lie along the last axis.
        moves_only: the output holds the numbers of the first input, in another form or order.
        scores: `"makes"`: the outputs are probabilities; `"keeps"`: it may stand behind a
            classifier's last layer.
        quantized: only quantized models have it.
        shape_ports: ports whose values, not only their shapes, decide the output's shape.
        reads_shape: the output holds sizes of the input, whatever its values are.
        rounds: tells nodes that make integers or truth values of real numbers.
        writes_inputs: tells nodes whose kernel writes results into the memory of inputs.
        random: how it draws random values; None if its output is the same on every run.
    """

    op_type: str
    domain: str = ""
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
    geometry: Callable[[ir.Node, tuple[int, ...]], Geometry | str] | None = None
    channel_axis: int = 1
    outputs_per_group: bool = False
    rows: Callable[[ir.Node, int], RowUse | None] | None = None
    table_axes: Callable[[ir.Node], tuple[int, ...] | None] | None = None
    dynamic_kernels: tuple[str, ...] = ()
    affine: tuple[int, ...] = ()
    moves_only: bool = False
    scores: Literal["makes", "keeps"] | None = None
    quantized: bool = False
    shape_ports: tuple[int, ...] = ()
    reads_shape: bool = False
    rounds: Callable[[ir.Node], bool] | None = None
    writes_inputs: Callable[[ir.Node], bool] | None = None
    random: RandomRule | None = None
