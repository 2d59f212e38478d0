"""Every operator with a channel rule has a net of its own, also those that share one rule."""

from __future__ import annotations

import pytest

from onnxlite.analysis.shapes import generated_feed
from onnxlite.ops import OPS
from tests.odd_models import parse
from tests.topologies.net import Net, between
from tests.topologies.oracle import check_pruned, mapped
from tests.topologies.rule_nets import NETS

UNARY = (
    *("Abs", "Neg", "Sign", "Ceil", "Floor", "Round", "Exp", "Erf", "Sin", "Cos", "Tan", "Atan"),
    *("Sinh", "Cosh", "Asinh", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Relu"),
    *("LeakyRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Softsign"),
    *("Shrink", "Identity", "Swish"),
)
#: Of numbers between 0 and 1.
OF_FRACTIONS = ("Sqrt", "Log", "Reciprocal", "Asin", "Acos", "Atanh")
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mean", "Sum", "PRelu")
COMPARING = ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
LOGICAL = ("And", "Or", "Xor")
BITWISE = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
POOLS = ("MaxPool", "AveragePool", "LpPool")
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

W3 = "float[8,3,1,1] w3"
PASSING: dict[str, Net] = {
    **{op: between(f"d = {op}(c)", opset=24 if op == "Swish" else 20) for op in UNARY},
    **{op: between(f"e = Sigmoid(c) d = {op}(e)") for op in OF_FRACTIONS},
    "Acosh": between("e = Exp(c) f = Add(e, one) d = Acosh(f)", "float one = {1}"),
    **{
        op: between(f"a = Conv(x, w3) e = Sigmoid(a) f = Sigmoid(c) d = {op}(f, e)", W3)
        for op in BINARY
    },
    "Mod": between("e = Conv(x, w3) f = Exp(e) d = Mod<fmod=1>(c, f)", W3),
    **{op: between(f"e = Conv(x, w3) f = {op}(c, e) d = Cast<to=1>(f)", W3) for op in COMPARING},
    **{
        op: between(
            f"e = Conv(x, w3) p = Greater(c, e) q = Less(c, z) r = {op}(p, q) d = Cast<to=1>(r)",
            f"{W3}, float z = {{0.1}}",
        )
        for op in LOGICAL
    },
    "Not": between("p = Greater(c, z) q = Not(p) d = Cast<to=1>(q)", "float z = {0.1}"),
    **{
        op: between(
            f"e = Conv(x, w3) i = Cast<to=6>(c) j = Cast<to=6>(e) k = {op}(i, j) d = Cast<to=1>(k)",
            W3,
        )
        for op in BITWISE
    },
    "BitwiseNot": between("i = Cast<to=6>(c) k = BitwiseNot(i) d = Cast<to=1>(k)"),
    "BitShift": between(
        'a = Abs(c) i = Cast<to=13>(a) k = BitShift<direction="LEFT">(i, i) d = Cast<to=1>(k)'
    ),
    "IsNaN": between("p = Sqrt(c) q = IsNaN(p) d = Cast<to=1>(q)"),
    "IsInf": between("p = Reciprocal(c) q = IsInf(p) d = Cast<to=1>(q)"),
    "Where": between("e = Conv(x, w3) p = Greater(c, e) d = Where(p, c, e)", W3),
    **{op: between(f"d = {op}<kernel_shape=[2,2]>(c)") for op in POOLS},
    **{f"Global{op}": between(f"d = Global{op}(c)") for op in POOLS},
    **{
        f"Reduce{op}": between(f"e = Exp(c) d = Reduce{op}(e, axes)", "int64[2] axes = {2, 3}")
        for op in REDUCTIONS
    },
    **{op: between(f"d = {op}<axis=2>(c)") for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{op: between(f"e = {op}<axis=2>(c) d = Cast<to=1>(e)") for op in ("ArgMax", "ArgMin")},
    "LpNormalization": between("d = LpNormalization<axis=2>(c)"),
    "RMSNormalization": between("d = RMSNormalization<axis=3>(c, s)", "float[6] s", opset=23),
}


@pytest.mark.parametrize("op_type", PASSING)
def test_units_pass(op_type):
    proto = parse(PASSING[op_type].text)
    model, channels = mapped(proto)
    (group,) = (group for group in channels.groups if group.pin is None)
    assert len(group.units) == 8
    check_pruned(proto, group.units[1:6].tolist(), [generated_feed(model, batch=2)])


def test_every_rule_has_a_net():
    tested = {node.op_type for net in NETS.values() for node in parse(net.text).graph.node}
    assert {op for op, spec in OPS.items() if spec.channels is not None} <= tested | set(PASSING)
