"""On random graphs: simplify keeps the outputs, and a second time finds nothing more."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxlite.model import clone, load
from onnxlite.simplify import simplify
from tests.simplify.conftest import difference, operators

CHANNELS, SIZE = 4, 6
UNARY = ("Relu", "Sigmoid", "Abs", "Neg", "Identity", "Exp", "HardSigmoid", "Dropout")
BINARY = ("Add", "Sub", "Mul", "Max")
PERMS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2))
#: Every step maps float[N,4,6,6] to the same shape, so steps combine freely.
STEPS = (
    *UNARY, *BINARY, "constant", "conv", "batchnorm", "transposes", "reshapes", "clip",
    "slices", "dead", "expand", "mean",
)  # fmt: skip

step = st.tuples(st.sampled_from(STEPS), st.integers(0, 7), st.integers(0, 7))


class Graph:
    """A graph under construction: every value in `values` has the shape [N, 4, 6, 6]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.values = ["x"]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, *shape: int) -> str:
        return self.weight(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def ints(self, *numbers: int) -> str:
        return self.weight(np.asarray(numbers, np.int64))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def add(self, kind: str, i: int, j: int) -> None:  # noqa: C901 one branch per kind
        a, b = (self.values[k % len(self.values)] for k in (-1 - i, -1 - j))
        if kind in UNARY:
            (out,) = self.node(kind, a)
        elif kind in BINARY:
            (out,) = self.node(kind, a, b)
        elif kind == "constant":
            shape = [(), (4, 1, 1), (1, 4, 1, 1), (6,), (1, 4, 6, 6)][i % 5]
            pair = (a, self.floats(*shape))
            (out,) = self.node(BINARY[j % 4], *(pair if i % 2 else pair[::-1]))
        elif kind == "conv":
            group = (1, 2, 4)[i % 3]
            w = self.floats(CHANNELS, CHANNELS // group, 3, 3)
            (out,) = self.node("Conv", a, w, group=group, pads=[1, 1, 1, 1])
            (out,) = self.node("Mul", out, self.floats(4, 1, 1)) if j % 2 else [out]
        elif kind == "batchnorm":
            (out,) = self.node("BatchNormalization", a, *(self.floats(CHANNELS) for _ in range(4)))
        elif kind == "transposes":
            perm = PERMS[i % 3]
            (t,) = self.node("Transpose", a, perm=perm)
            (t,) = self.node(UNARY[j % 4], t)
            (out,) = self.node("Transpose", t, perm=np.argsort(perm).tolist())
        elif kind == "reshapes":
            (shape,) = self.node("Shape", a)
            (head,) = self.node("Gather", shape, self.ints(0))
            (target,) = self.node("Concat", head, self.ints(-1), axis=0)
            (flat,) = self.node("Reshape", a, target)
            (out,) = self.node("Reshape", flat, self.ints(-1, CHANNELS, SIZE, SIZE))
        elif kind == "clip":
            zero, six = self.weight(np.float32(0)), self.weight(np.float32(6))
            (out,) = self.node("Clip", a, zero, six)
        elif kind == "slices":
            parts = [
                self.node("Slice", a, self.ints(s), self.ints(e), self.ints(1))[0]
                for s, e in ((0, 2), (2, 4))
            ]
            (out,) = self.node("Concat", *parts[:: 1 if i % 2 else -1], axis=1)
        elif kind == "dead":
            self.node("Exp", a)
            out = a
        elif kind == "expand":
            (shape,) = self.node("Shape", a)
            (wide,) = self.node("Expand", self.floats(1, CHANNELS, 1, 1), shape)
            (out,) = self.node("Add", a, wide)
        else:
            (mean,) = self.node("ReduceMean", a, self.ints(2, 3))
            (out,) = self.node("Mul", a, mean)
        self.values.append(out)

    def model(self) -> onnx.ModelProto:
        dims = ["N", CHANNELS, SIZE, SIZE]
        self.nodes.append(helper.make_node("Tanh", [self.values[-1]], ["y"]))
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("x", "y")]
        graph = helper.make_graph(self.nodes, "g", infos[:1], infos[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(step, min_size=1, max_size=12), st.integers(0, 1000))
def test_simplify_keeps_outputs_and_is_idempotent(steps, seed):
    graph = Graph(seed)
    for kind, i, j in steps:
        graph.add(kind, i, j)
    model = load(graph.model())
    once, report = simplify(clone(model), onnxsim=False)
    assert not [d for d in report.skipped if "internal error" in d.message]
    assert not [d for d in report.skipped if "rolled back" in d.message]
    assert difference(model, once) < 1e-4
    twice, _ = simplify(clone(once), onnxsim=False)
    assert operators(twice) == operators(once)
