"""Small generated nets, one for each kind of output that nets of different tasks have.

Weights are random, but scaled such that outputs look as a trained net's do: a detector sees few
objects, the classes of a segmentation fill areas. Inputs are random smooth pictures or token ids,
see `task_samples`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

#: Side of the pictures; a detector has 84 cells in grids of strides 8, 16 and 32.
SIDE = 64
CELLS = 84
_TRUNK = """p = AveragePool<kernel_shape=[8,8], strides=[8,8]>(x) f = Flatten(p)
    g = Gemm(f, wf, bf) h = Tanh(g)"""
_TRUNK_WEIGHTS = "float[192,16] wf, float[16] bf"
_ROWS = f"int64[3] k = {{0, {CELLS}, 4}}, int64[3] i = {{0, {CELLS}, 1}}"
_BOXES = f"float[16,{4 * CELLS}] wb, float[{4 * CELLS}] bb"
_SCORES = f"float[16,{4 * CELLS}] ws, float[{4 * CELLS}] bs"
_OBJECT = f"float[16,{CELLS}] wo, float[{CELLS}] bo"


@dataclass(frozen=True)
class TaskNet:
    """A net in ONNX text.

    Attributes:
        nodes: behind the trunk, which gives `h: float32[n, 16]` from `x`; or behind the token ids.
        outputs: declarations.
        weights: declarations; those without values are drawn at random.
        scales: standard deviation and mean of weights, (0.5, 0) by default.
        tokens: the input is token ids, and there is no trunk.
    """

    nodes: str
    outputs: str
    weights: str
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tokens: bool = False


_FEW = {"ws": (0.7, 0.0), "bs": (0.3, -5.0)}
NETS: Mapping[str, TaskNet] = {
    "embedding of unit length": TaskNet(
        "e = Gemm(h, we, be) r = ReduceL2(e, one) y = Div(e, r)",
        "float[n,96] y",
        "float[16,96] we, float[96] be, int64[1] one = {1}",
    ),
    "tags": TaskNet(
        "t = Gemm(h, wt, bt) y = Sigmoid(t)",
        "float[n,40] y",
        "float[16,40] wt, float[40] bt",
        {"wt": (2.0, 0.0), "bt": (0.5, -1.0)},
    ),
    "landmarks": TaskNet(
        "y = Gemm(h, wl, bl)",
        "float[n,20] y",
        "float[16,20] wl, float[20] bl",
        {"bl": (9.0, 32.0)},
    ),
    "age": TaskNet(
        "y = Gemm(h, wa, ba)", "float[n,1] y", "float[16,1] wa, float[1] ba", {"ba": (1.0, 30.0)}
    ),
    "classes of no declared shape": TaskNet(
        "t = Gemm(h, wc, bc) y = Softmax(t)",
        "float y",
        "float[16,8] wc, float[8] bc",
        {"wc": (2.0, 0.0)},
    ),
    "classes of pixels": TaskNet(
        """c = Conv<kernel_shape=[5,5], pads=[2,2,2,2]>(x, wp) r = Relu(c) q = Conv(r, wq)
        y = Resize<mode="linear">(q, , k)""",
        "float[n,5,h,w] y",
        "float[8,3,5,5] wp, float[5,8,1,1] wq, float[4] k = {1, 1, 2, 2}",
        {"wq": (1.0, 0.0)},
    ),
    "mask": TaskNet(
        "c = Conv<kernel_shape=[5,5], pads=[2,2,2,2]>(x, wp) y = Sigmoid(c)",
        "float[n,1,h,w] y",
        "float[1,3,5,5] wp",
        {"wp": (8.0, 0.0)},
    ),
    "super-resolution": TaskNet(
        "c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, wp) y = DepthToSpace<blocksize=2>(c)",
        "float[n,3,h,w] y",
        "float[12,3,3,3] wp",
        {"wp": (0.2, 0.05)},
    ),
    "heat maps": TaskNet(
        "c = Conv<kernel_shape=[5,5], pads=[2,2,2,2]>(x, wp) d = Sub(c, t) y = Sigmoid(d)",
        "float[n,9,h,w] y",
        "float[9,3,5,5] wp, float t = {7}",
        {"wp": (0.7, 0.0)},
    ),
    "YOLOv8": TaskNet(
        """s = Gemm(h, ws, bs) u = Sigmoid(s) v = Reshape(u, j) c = Gemm(h, wb, bb) a = Abs(c)
        b = Reshape(a, j) y = Concat<axis=1>(b, v)""",
        f"float[n,8,{CELLS}] y",
        f"{_SCORES}, {_BOXES}, int64[3] j = {{0, 4, {CELLS}}}",
        {**_FEW, "bb": (5.0, 20.0)},
    ),
    "YOLOv5": TaskNet(
        """s = Gemm(h, ws, bs) u = Sigmoid(s) v = Reshape(u, k) o = Gemm(h, wo, bo)
        q = Sigmoid(o) r = Reshape(q, i) c = Gemm(h, wb, bb) a = Abs(c) b = Reshape(a, k)
        y = Concat<axis=2>(b, r, v)""",
        f"float[n,{CELLS},9] y",
        f"{_SCORES}, {_OBJECT}, {_BOXES}, {_ROWS}",
        {"ws": (1.5, 0.0), "wo": (0.8, 0.0), "bo": (0.3, -5.0), "bb": (5.0, 20.0)},
    ),
    "YOLOX": TaskNet(
        """s = Gemm(h, ws, bs) u = Sigmoid(s) v = Reshape(u, k) o = Gemm(h, wo, bo)
        q = Sigmoid(o) r = Reshape(q, i) c = Gemm(h, wb, bb) b = Reshape(c, k)
        y = Concat<axis=2>(b, r, v)""",
        f"float[n,{CELLS},9] y",
        f"{_SCORES}, {_OBJECT}, {_BOXES}, {_ROWS}",
        {"ws": (1.5, 0.0), "wo": (0.8, 0.0), "bo": (0.3, -5.0), "wb": (0.3, 0.0)},
    ),
    "YOLOv10": TaskNet(
        """s = Gemm(h, ws, bs) u = Sigmoid(s) v = Reshape(u, k) m = ReduceMax(v, two)
        top, place = TopK<axis=1>(m, twenty) l = ArgMax<axis=2>(v) lf = Cast<to=1>(l)
        label = GatherElements<axis=1>(lf, place) c = Gemm(h, wb, bb) t = Reshape(c, k)
        low, size = Split<axis=2, num_outputs=2>(t) wide = Abs(size) high = Add(low, wide)
        b = Concat<axis=2>(low, high) four = Concat<axis=2>(place, place, place, place)
        box = GatherElements<axis=1>(b, four) y = Concat<axis=2>(box, top, label)""",
        "float[n,20,6] y",
        f"{_SCORES}, {_BOXES}, {_ROWS}, int64[1] two = {{2}}, int64[1] twenty = {{20}}",
        {**_FEW, "bb": (5.0, 20.0)},
    ),
    "SSD": TaskNet(
        """s = Gemm(h, ws, bs) r = Reshape(s, k) z = ReduceMax(r, two) zero = Sub(z, z)
        all = Concat<axis=2>(zero, r) scores = Softmax(all) c = Gemm(h, wb, bb)
        boxes = Reshape(c, k)""",
        f"float[n,{CELLS},5] scores, float[n,{CELLS},4] boxes",
        f"{_SCORES}, {_BOXES}, {_ROWS}, int64[1] two = {{2}}",
        _FEW,
    ),
    "DETR": TaskNet(
        """s = Gemm(h, ws, bs) r = Reshape(s, k) z = ReduceMax(r, two) zero = Sub(z, z)
        logits = Concat<axis=2>(r, zero) c = Gemm(h, wb, bb) d = Sigmoid(c)
        boxes = Reshape(d, k)""",
        f"float[n,{CELLS},5] logits, float[n,{CELLS},4] boxes",
        f"{_SCORES}, {_BOXES}, {_ROWS}, int64[1] two = {{2}}",
        _FEW,
    ),
    "classes of tokens": TaskNet(
        "e = Gather(we, x) y = MatMul(e, wc)",
        "float[n,t,2] y",
        "float[50,16] we, float[16,2] wc",
        tokens=True,
    ),
    "generated tokens": TaskNet(
        "e = Gather(we, x) s = MatMul(e, wc) y = ArgMax<axis=2, keepdims=0>(s)",
        "int64[n,t] y",
        "float[50,16] we, float[16,50] wc",
        tokens=True,
    ),
}


def task_net(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """The net of `NETS` with a name."""
    net = NETS[name]
    given = "int64[n,t] x" if net.tokens else f"float[n,3,{SIDE},{SIDE}] x"
    trunk, weights = (
        ("", net.weights) if net.tokens else (_TRUNK, f"{_TRUNK_WEIGHTS}, {net.weights}")
    )
    proto = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 18]> g ({given}) => ({net.outputs})
        <{weights}> {{ {trunk} {net.nodes} }}"""
    )
    rng = np.random.default_rng([seed, *re.sub(r"\W", "", name).encode()])
    for info in list(proto.graph.value_info):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        scale, mean = net.scales.get(info.name, (0.5, 0.0))
        values = (rng.standard_normal(shape) * scale + mean).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, info.name))
        proto.graph.value_info.remove(info)
    return proto


def task_samples(
    name: str, count: int = 32, *, seed: int = 0
) -> NDArray[np.float32] | NDArray[np.int64]:
    """Smooth pictures `float32[count, 3, 64, 64]`, or token ids `int64[count, 12]`."""
    rng = np.random.default_rng([seed, count])
    if NETS[name].tokens:
        return rng.integers(0, 50, (count, 12))
    coarse = rng.standard_normal((count, 3, 4, 4))
    places = np.linspace(0, 3, SIDE)
    left = np.minimum(places.astype(int), 2)
    share = places - left
    for axis in (2, 3):
        low, high = (np.take(coarse, left + step, axis=axis) for step in (0, 1))
        at = share.reshape((-1, 1) if axis == 2 else -1)
        coarse = low * (1 - at) + high * at
    return coarse.astype(np.float32)
