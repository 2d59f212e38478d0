"""Operators that compute on integers by themselves: what ONNX Runtime makes of Q and DQ nodes.

    DQ -> Add -> Q    is    QLinearAdd

The inputs of an integer operator are those of the float one, each with its scale and zero
point, and the scale and zero point of the output. Their order is the operator's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from onnxlite.graph import STANDARD_DOMAINS

#: ONNX Runtime's own operators.
CONTRIB_DOMAIN = "com.microsoft"


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


def _operands(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    return [value for operand in inputs for value in operand.three] + output.parameters


def _conv(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    bias = [operand.integers for operand in inputs[2:]]
    return [*_operands(inputs[:2], output), *bias]


def _gemm(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    bias = inputs[2].integers if len(inputs) > 2 else None
    return [*inputs[0].three, *inputs[1].three, bias, *output.parameters]


def _gemm_to_float(inputs: Sequence[Quantized], _output: Quantized) -> list[ir.Value | None]:
    bias = [operand.integers for operand in inputs[2:]]
    return [*inputs[0].three, *inputs[1].three, *bias]


def _matmul_to_float(inputs: Sequence[Quantized], _output: Quantized) -> list[ir.Value | None]:
    a, b = inputs
    return [a.integers, b.integers, a.scale, b.scale, a.zero_point, b.zero_point]


def _concat(inputs: Sequence[Quantized], output: Quantized) -> list[ir.Value | None]:
    return output.parameters + [value for operand in inputs for value in operand.three]


def _contrib(op_type: str) -> IntegerForm:
    return IntegerForm(op_type=op_type, domain=CONTRIB_DOMAIN, arrange=_operands)


_GEMM_ATTRIBUTES = frozenset({"alpha", "transA", "transB"})

#: By the float operator: from integers to integers.
TO_INTEGERS: Mapping[str, IntegerForm] = MappingProxyType(
    {
        "Conv": IntegerForm(op_type="QLinearConv", domain="", arrange=_conv),
        "MatMul": IntegerForm(op_type="QLinearMatMul", domain="", arrange=_operands),
        "Gemm": IntegerForm(
            op_type="QGemm", domain=CONTRIB_DOMAIN, arrange=_gemm, attributes=_GEMM_ATTRIBUTES
        ),
        "Add": _contrib("QLinearAdd"),
        "Mul": _contrib("QLinearMul"),
        "Sigmoid": _contrib("QLinearSigmoid"),
        "LeakyRelu": _contrib("QLinearLeakyRelu"),
        "Softmax": IntegerForm(
            op_type="QLinearSoftmax",
            domain=CONTRIB_DOMAIN,
            arrange=_operands,
            records_opset=True,
        ),
        "AveragePool": _contrib("QLinearAveragePool"),
        "GlobalAveragePool": _contrib("QLinearGlobalAveragePool"),
        "Concat": IntegerForm(op_type="QLinearConcat", domain=CONTRIB_DOMAIN, arrange=_concat),
    }
)
#: The same from integers to float.
TO_FLOAT: Mapping[str, IntegerForm] = MappingProxyType(
    {
        "MatMul": IntegerForm(
            op_type="MatMulIntegerToFloat", domain=CONTRIB_DOMAIN, arrange=_matmul_to_float
        ),
        "Gemm": IntegerForm(
            op_type="QGemm",
            domain=CONTRIB_DOMAIN,
            arrange=_gemm_to_float,
            attributes=_GEMM_ATTRIBUTES,
        ),
    }
)
#: Further operators that only a quantized model has.
_OF_QUANTIZED_MODELS = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulNBits",
        "QAttention",
        "QuantizeLinear",
    }
)


def is_quantized(node: ir.Node) -> bool:
    """Whether this is an operator that only a quantized model has."""
    forms = (*TO_INTEGERS.values(), *TO_FLOAT.values())
    name = node.op_type
    return name in _OF_QUANTIZED_MODELS or any(form.op_type == name for form in forms)


def integer_form(node: ir.Node, *, to_float: bool) -> IntegerForm | None:
    """The integer operator that does what `node` does between Q and DQ, or None."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    return (TO_FLOAT if to_float else TO_INTEGERS).get(node.op_type)
