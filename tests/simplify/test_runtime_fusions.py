"""What ONNX Runtime fuses stays fusible: its optimized graph has no more nodes after `simplify`.

Each net holds a pattern that a fusion of ONNX Runtime 1.32 looks for, in the forms that exporters
write, between layers whose weights could take factors.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.errors import OptionError
from onnxlite.model import load
from onnxlite.opset import opset_version
from onnxlite.runtime import Session
from onnxlite.simplify import simplify
from tests.odd_models import parse

ROWS = """float[n,8,32] x) => (float[n,8,32] y)
    <float[32,32] w, float[32] b, float[32,32] v, float[32] g, float[32] h>"""
IMAGES = """float[n,8,16,16] x) => (float[n,8,16,16] y)
    <float[8,8,3,3] w, float[8] b, float[8,8,3,3] v, float[8,1,1] g>"""
_CONV = "Conv<pads=[1,1,1,1]>"


def scalars(**numbers: float) -> str:
    return " ".join(f"{n} = Constant<value_float={v}>()" for n, v in numbers.items())


ERF = scalars(r=1.41421356, one=1.0, half=0.5)
TANH = scalars(three=3.0, k=0.044715, r=0.79788456, one=1.0, half=0.5)
NORM = scalars(two=2.0, eps=1e-5)
_GATE = "d=Div(a,r) e=Erf(d) p=Add(e,one)"
_MEAN = "m=ReduceMean<axes=[-1]>(z) d=Sub(z,m) s=Pow(d,two) vv=ReduceMean<axes=[-1]>(s)"
_SCALED = "e=Add(vv,eps) r=Sqrt(e) n=Div(d,r) k=Mul(n,g) o=Add(k,h)"

NETS = {
    "BiasGelu, half last": f"{ERF} t=MatMul(x,w) a=Add(t,b) {_GATE} m=Mul(a,p) q=Mul(m,half)"
    " y=MatMul(q,v)",
    "BiasGelu, half first": f"{ERF} t=MatMul(x,w) a=Add(t,b) {_GATE} i=Mul(a,half) q=Mul(i,p)"
    " y=MatMul(q,v)",
    "Gelu": f"{ERF} a=MatMul(x,w) {_GATE} m=Mul(a,p) q=Mul(m,half) y=MatMul(q,v)",
    "FastGelu": f"{TANH} t=MatMul(x,w) a=Add(t,b) u=Pow(a,three) f=Mul(u,k) z=Add(a,f) zr=Mul(z,r)"
    " th=Tanh(zr) p=Add(th,one) i=Mul(a,half) q=Mul(i,p) y=MatMul(q,v)",
    "FastGelu, half last": f"{TANH} t=MatMul(x,w) a=Add(t,b) u=Pow(a,three) f=Mul(u,k) z=Add(a,f)"
    " zr=Mul(z,r) th=Tanh(zr) p=Add(th,one) m=Mul(a,p) q=Mul(m,half) y=MatMul(q,v)",
    "QuickGelu": f"{scalars(k=1.702)} t=MatMul(x,w) a=Add(t,b) s=Mul(a,k) e=Sigmoid(s) q=Mul(a,e)"
    " y=MatMul(q,v)",
    "SiLU": "t=MatMul(x,w) a=Add(t,b) e=Sigmoid(a) q=Mul(a,e) y=MatMul(q,v)",
    "LayerNormalization": f"{NORM} z=Identity(x) {_MEAN} {_SCALED} y=MatMul(o,w)",
    "SkipLayerNormalization": f"{NORM} t=MatMul(x,w) tb=Add(t,b) z=Add(tb,x) {_MEAN} {_SCALED}"
    " y=MatMul(o,v)",
    "SkipLayerNormalization, sum used again": f"{NORM} t=MatMul(x,w) tb=Add(t,b) z=Add(tb,x)"
    f" {_MEAN} {_SCALED} u=MatMul(o,v) y=Add(u,z)",
    "FusedMatMul, scaled": f"{scalars(k=0.125)} t=MatMul(x,w) s=Mul(t,k) y=Softmax<axis=-1>(s)",
    "FusedMatMul, transposed": f"{scalars(k=5.6)} t=MatMul(x,w) u=MatMul(x,v)"
    " ut=Transpose<perm=[0,2,1]>(u) s=MatMul(t,ut) d=Div(s,k) p=Softmax<axis=-1>(d) y=MatMul(p,x)",
    "bias and Relu": "t=MatMul(x,w) a=Add(t,b) r=Relu(a) y=MatMul(r,v)",
    "two biases": "t=MatMul(x,w) a=Add(t,b) c=Add(a,g) y=Mul(c,h)",
}
CONVOLUTIONS = {
    "Relu": f"t={_CONV}(x,w,b) r=Relu(t) y={_CONV}(r,v)",
    "LeakyRelu": f"t={_CONV}(x,w,b) r=LeakyRelu<alpha=0.1>(t) y={_CONV}(r,v)",
    "Sigmoid": f"t={_CONV}(x,w,b) r=Sigmoid(t) y={_CONV}(r,v)",
    "Tanh": f"t={_CONV}(x,w,b) r=Tanh(t) y={_CONV}(r,v)",
    "HardSigmoid": f"t={_CONV}(x,w,b) r=HardSigmoid(t) y={_CONV}(r,v)",
    "Clip": f"{scalars(lo=0.0, hi=6.0)} t={_CONV}(x,w,b) r=Clip(t,lo,hi) y={_CONV}(r,v)",
    "SiLU of a convolution": f"t={_CONV}(x,w,b) s=Sigmoid(t) r=Mul(t,s) y={_CONV}(r,v)",
    "HardSwish from parts": f"{scalars(three=3.0, lo=0.0, six=6.0)} t={_CONV}(x,w,b) a=Add(t,three)"
    f" c=Clip(a,lo,six) m=Mul(t,c) r=Div(m,six) y={_CONV}(r,v)",
    "sum and Relu": f"t={_CONV}(x,w,b) u={_CONV}(t,v) s=Add(u,x) y=Relu(s)",
    "affine and Relu": f"t={_CONV}(x,w,b) m=Mul(t,g) s=Add(m,g) y=Relu(s)",
    "scale behind Relu": f"{scalars(k=0.5)} t={_CONV}(x,w,b) r=Relu(t) m=Mul(r,k) y={_CONV}(m,v)",
    "Gelu of a convolution": f"{ERF} a={_CONV}(x,w,b) {_GATE} m=Mul(a,p) q=Mul(m,half)"
    f" y={_CONV}(q,v)",
}
BODIES = {name: (ROWS, body) for name, body in NETS.items()}
BODIES |= {f"convolution, {name}": (IMAGES, body) for name, body in CONVOLUTIONS.items()}


def net(name: str, opset: int) -> onnx.ModelProto:
    head, body = BODIES[name]
    if opset >= 18:  # axes are an input
        body = re.sub(r"ReduceMean<axes=\[-1\]>\((\w+)\)", r"ReduceMean(\1,axes)", body)
        body = f"axes=Constant<value_ints=[-1]>() {body}"
    return parse(f'<ir_version: 8, opset_import: ["": {opset}]> g ({head} {{ {body} }}')


def kernels(model: ir.Model) -> Counter[str]:
    """Operators of the graph that ONNX Runtime makes of a model.

    SkipLayerNormalization is slower than its parts, and counts as both.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        Session(model, threads=1, optimized_path=path)
        nodes = onnx.load(path).graph.node
    found = Counter(node.op_type for node in nodes)
    for node in nodes:
        if node.op_type == "SkipLayerNormalization":
            found.subtract([node.op_type])
            found.update(["LayerNormalization", *["Add"] * len(node.input[1:2] + node.input[4:])])
    return +found


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("name", BODIES)
def test_no_fusion_is_lost(name: str, opset: int) -> None:
    proto = net(name, opset)
    before = kernels(load(proto))
    after = kernels(load(simplify(proto, onnxsim=False).model))
    assert after.total() <= before.total(), (before - after, after - before)


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("name", [name for name in BODIES if "SkipLayer" in name])
def test_sums_and_normalizations_stay_apart(name: str, opset: int) -> None:
    model = load(simplify(net(name, opset), onnxsim=False).model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        Session(model, threads=1, optimized_path=path)
        found = {node.op_type for node in onnx.load(path).graph.node}
    assert {"Sum", "LayerNormalization"} <= found
    again = simplify(model, onnxsim=False)
    assert not again.report.changed


@pytest.mark.parametrize("name", [name for name in BODIES if "Gelu" in name and "Fast" not in name])
def test_a_newer_opset_names_what_is_fused(name: str) -> None:
    made, report = simplify(net(name, 13), opset=20, onnxsim=False)
    model = load(made)
    assert opset_version(model) == 20
    assert report.changes.opset_upgraded == 1
    if "Quick" not in name:
        assert "Gelu" in {node.op_type for node in model.graph}
    data = np.random.default_rng(0).standard_normal((2, *net_shape(name))).astype(np.float32)
    want, got = (Session(load(m)).run({"x": data})["y"] for m in (net(name, 13), made))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


def net_shape(name: str) -> tuple[int, ...]:
    return (8, 16, 16) if name.startswith("convolution") else (8, 32)


def test_parts_become_layer_normalization_in_a_newer_opset() -> None:
    model = load(simplify(net("LayerNormalization", 13), opset=17, onnxsim=False).model)
    assert "LayerNormalization" in {node.op_type for node in model.graph}


def test_a_model_that_is_new_enough_keeps_its_opset() -> None:
    made, report = simplify(net("Gelu", 20), opset=17, onnxsim=False)
    assert opset_version(load(made)) == 20
    assert not report.changes.opset_upgraded


def test_what_cannot_be_upgraded_says_why() -> None:
    nodes = [
        onnx.helper.make_node("Mystery", ["x"], ["t"]),
        onnx.helper.make_node("Relu", ["t"], ["y"]),
    ]
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 4]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:])
    model = load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)]))
    made, report = simplify(model, opset=20, onnxsim=False)
    assert opset_version(load(made)) == 11
    (row,) = [row for row in report.skipped if row.what == "upgrade-opset"]
    assert "at opset 11, 20 is needed" in row.message
    assert "Mystery" in row.message


def test_an_unknown_opset_is_an_error() -> None:
    with pytest.raises(OptionError, match="opset=999 does not exist here"):
        simplify(net("Gelu", 13), opset=999)
