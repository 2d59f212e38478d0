"""Small models with the oddities of real exporters, as one table for the tests of every step.

`ODD` holds valid models, each with one peculiarity; `BROKEN` holds models that `load` must
refuse. Both map a name to ONNX text; `parse` turns it into a `ModelProto` and fills every
tensor that is declared without values with seeded random ones.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from onnxlite.errors import InvalidModelError, OnnxliteError
from onnxlite.inputs import InputSpec, input_specs
from onnxlite.model import load
from onnxlite.samples import generate

#: Valid models by their oddity. Those named in `NOT_RUNNABLE` do not run in ONNX Runtime.
ODD: dict[str, str] = {
    "plain": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,4,8,8] y) <float[4,3,3,3] w, float[4] b>
        { t = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(t) }""",
    "constant node weights": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,2] y)
        { w = Constant<value = float[2,2] {1.0, -2.0, 3.0, 0.5}>()
          b = Constant<value_floats = [0.5, -0.5]>()
          t = MatMul(x, w)  y = Add(t, b) }""",
    "weights are inputs": """<ir_version: 3, opset_import: ["": 9]>
        g (float[n,4] x, float[4,4] w = {1,2,3,4, 0,1,0,1, 2,0,2,0, -1,0,1,0}, float[4] b)
        => (float[n,4] y) <float[4] b = {1, 2, 3, 4}>
        { t = MatMul(x, w)  y = Add(t, b) }""",
    "overridable weight": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x, float[2,2] w = {1, 2, 3, 4}) => (float[n,2] y) { y = MatMul(x, w) }""",
    "shared weight": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <float[4,4] w>
        { t = MatMul(x, w)  r = Relu(t)  y = Gemm<transB=1>(r, w) }""",
    "weight behind Identity": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,3] y) <float[4,3] w>
        { v = Identity(w)  y = MatMul(x, v) }""",
    "weight behind Transpose and Cast": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,3] y) <float16[3,4] w>
        { c = Cast<to=1>(w)  v = Transpose<perm=[1,0]>(c)  y = MatMul(x, v) }""",
    "function": """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[n,2] x) => (float[n,2] y) <float[2,2] w>
        { t = MatMul(x, w)  u = local.scaled<factor=2.0>(t)  y = local.scaled(u) }
        <opset_import: ["": 17], domain: "local">
        scaled <factor: float = 3.0> (a) => (c)
        { k = Constant<value_float: float = @factor>()
          v = Constant<value = float[2,2] {1.0, 0.0, 2.0, 1.0}>()
          b = MatMul(a, v)  c = Mul(b, k) }""",
    "If": """<ir_version: 8, opset_import: ["": 17]>
        g (bool flag, float[n,4] x) => (float[n,4] y) <float[4,4] w>
        { y = If(flag) <
            then_branch = yes () => (float[n,4] a) <float[4,4] v> { t = MatMul(x, v)  a = Relu(t) },
            else_branch = no () => (float[n,4] b) { t = MatMul(x, w)  b = Tanh(t) }> }""",
    "constant If": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] y) <bool flag = {1}>
        { z = If(flag) <then_branch = yes () => (float[n,4] a) { a = Relu(x) },
                        else_branch = no () => (float[n,4] b) { b = Tanh(x) }>
          y = Sqrt(z) }""",
    "Loop": """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,2] x) => (float[2,2] y, float[k,2,2] all)
        <int64 trips = {3}, bool go = {1}, float[2,2] w>
        { y, all = Loop(trips, go, x) <body = step (int64 i, bool c, float[2,2] s)
            => (bool d, float[2,2] t, float[2,2] out)
            { d = Identity(c)  m = MatMul(s, w)  t = Tanh(m)  out = Identity(t) }> }""",
    "Scan": """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] start, float[seq,2] x) => (float[2] last, float[seq,2] sums) <float[2,2] w>
        { last, sums = Scan<num_scan_inputs = 1, body = step (float[2] s, float[2] e)
            => (float[2] t, float[2] o) { m = MatMul(e, w)  t = Add(s, m)  o = Identity(t) }>
          (start, x) }""",
    "If in a Loop": """<ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) <int64 trips = {2}, bool go = {1}>
        { y = Loop(trips, go, x) <body = step (int64 i, bool c, float[4] s)
            => (bool d, float[4] t)
            { d = Identity(c)  zero = Constant<value_int = 0>()  first = Equal(i, zero)
              t = If(first) <then_branch = yes () => (float[4] p) { p = Mul(s, x) },
                             else_branch = no () => (float[4] q) { q = Relu(s) }> }> }""",
    "QDQ quantized": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y)
        <float s = {0.05}, uint8 z = {128}, int8[4,2] w = {1,-2,3,-4,5,-6,7,-8},
         float[2] sw = {0.01, 0.02}, int8[2] zw = {0, 0}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
          v = DequantizeLinear<axis=1>(w, sw, zw)  y = MatMul(d, v) }""",
    "QOperator quantized": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y)
        <float s = {0.05}, uint8 z = {128}, int8[4,2] w = {1,-2,3,-4,5,-6,7,-8},
         float sw = {0.01}, int8 zw = {0}>
        { q = QuantizeLinear(x, s, z)  p = QLinearMatMul(q, s, z, w, sw, zw, s, z)
          y = DequantizeLinear(p, s, z) }""",
    "string input": """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
        g (string[n] word, float[n,2] x) => (int64[n] id, float[n,2] y) <float[2,2] w>
        { id = ai.onnx.ml.LabelEncoder<keys_strings=["text","b"], values_int64s=[7,8]>(word)
          y = MatMul(x, w) }""",
    "string weight": """<ir_version: 8, opset_import: ["": 17]>
        g (int64[n] i, float[n,2] x) => (string[n] word, float[n,2] y)
        <string[3] words = {"one", "two", "three"}, float[2,2] w>
        { word = Gather(words, i)  y = MatMul(x, w) }""",
    "float16": """<ir_version: 8, opset_import: ["": 17]>
        g (float16[n,4] x) => (float16[n,2] y) <float16[4,2] w> { y = MatMul(x, w) }""",
    "bfloat16 weight": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <bfloat16[4,2] w>
        { v = Cast<to=1>(w)  y = MatMul(x, v) }""",
    "int4 weight": """<ir_version: 10, opset_import: ["": 21]>
        g (float[n,4] x) => (float[n,2] y) <int4[4,2] w, float s = {0.1}>
        { v = DequantizeLinear(w, s)  y = MatMul(x, v) }""",
    "double": """<ir_version: 8, opset_import: ["": 17]>
        g (double[n,4] x) => (double[n,2] y) <double[4,2] w, double[2] b>
        { t = MatMul(x, w)  y = Add(t, b) }""",
    "zero-size tensor": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[m,4] y) <float[0,4] none, float[4,4] w>
        { t = MatMul(x, w)  y = Concat<axis=0>(t, none) }""",
    "scalars": """<ir_version: 8, opset_import: ["": 17]>
        g (float x) => (float y) <float two = {2}> { t = Mul(x, two)  y = Relu(t) }""",
    "no nodes": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,4] x) {}""",
    "initializer is output": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,2] y, float[2,2] w) <float[2,2] w = {1, 2, 3, 4}>
        { y = MatMul(x, w) }""",
    "input is output": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,2] y, float[n,2] x) <float[2,2] w> { y = MatMul(x, w) }""",
    "no inputs": """<ir_version: 8, opset_import: ["": 17]>
        g () => (float[2,2] y) <float[2,2] w> { y = Relu(w) }""",
    "unused input": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x, float[n,7] spare) => (float[n,2] y) <float[2,2] w> { y = MatMul(x, w) }""",
    "optional inputs left out": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,8,8] x) => (float[n,4,6,6] y) <float[4,3,3,3] w, float six = {6}>
        { t = Conv(x, w, "")  y = Clip(t, "", six) }""",
    "optional outputs left out": """<ir_version: 8, opset_import: ["": 17]>
        g (float[5,n,3] x) => (float[1,n,4] h) <float[1,16,3] w, float[1,16,4] r>
        { "", h = LSTM<hidden_size=4>(x, w, r) }""",
    "recurrent state": """<ir_version: 8, opset_import: ["": 17]>
        g (float[5,n,3] x, float[1,n,4] h0) => (float[5,1,n,4] y, float[1,n,4] h)
        <float[1,12,3] w, float[1,12,4] r, float[1,24] b>
        { y, h = GRU<hidden_size=4>(x, w, r, b, "", h0) }""",
    "opset 9": """<ir_version: 4, opset_import: ["": 9]>
        g (float[n,3,8,8] x) => (float[n,4,16,16] y)
        <float[4,3,3,3] w, float[4] scale = {1,2,1,2}, float[4] shift = {0,1,0,1},
         float[4] mean = {0,0,1,1}, float[4] var = {1,1,2,2}, float[4] f = {1,1,2,2}>
        { c = Conv<pads=[1,1,1,1]>(x, w)
          b = BatchNormalization(c, scale, shift, mean, var)
          r = Clip<min=0.0, max=6.0>(b)  y = Upsample<mode="nearest">(r, f) }""",
    "opset 12": """<ir_version: 7, opset_import: ["": 12]>
        g (float[n,3,4,4] x) => (float[n,5] y) <float[5,3] w, float zero = {0}, float six = {6}>
        { m = ReduceMean<axes=[2,3], keepdims=1>(x)  s = Squeeze<axes=[2,3]>(m)
          d = Dropout(s)  t = Gemm<transB=1>(d, w)  c = Clip(t, zero, six)
          y = Softmax<axis=1>(c) }""",
    "fixed batch": """<ir_version: 8, opset_import: ["": 17]>
        g (float[4,3,6,6] x) => (float[4,5] y) <float[5,3,3,3] w, float[80,5] v, int64[2] s={4,-1}>
        { c = Conv(x, w)  p = Relu(c)  f = Reshape(p, s)  y = MatMul(f, v) }""",
    "contrib op": """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w, float[2] b>
        { t = com.microsoft.FusedMatMul<alpha=0.5>(x, w)  y = Add(t, b) }""",
    "custom op": """<ir_version: 8, opset_import: ["": 17, "my.company": 1]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w>
        { t = MatMul(x, w)  y = my.company.Sparkle<power=3>(t) }""",
    "unknown op": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w>
        { t = MatMul(x, w)  y = NoSuchOperator(t) }""",
    "no outputs": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => () <float[4,2] w> { t = MatMul(x, w) }""",
    "unsorted": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w>
        { y = Relu(t)  t = MatMul(x, w) }""",
    "no shapes": """<ir_version: 8, opset_import: ["": 17]>
        g (float[] x) => (float[] y) <float[3,3] w> { y = MatMul(x, w) }""",
    "unnamed dims": """<ir_version: 8, opset_import: ["": 17]>
        g (float[?,?,?,?] x) => (float[?,?,?,?] y) <float[4,3,3,3] w> { y = Conv(x, w) }""",
    "wrong value_info": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w, float[n,7] t>
        { t = MatMul(x, w)  y = Relu(t) }""",
    "strange names": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] "a/b:0") => (float[n,2] "é ü") <float[4,2] "w w">
        { "t" = MatMul("a/b:0", "w w")  "é ü" = Relu("t") }""",
    "duplicate node names": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w>
        { [same] t = MatMul(x, w)  [same] y = Relu(t) }""",
    "sequence": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w, int64 first = {0}>
        { t = MatMul(x, w)  s = SequenceConstruct(t, t)  y = SequenceAt(s, first) }""",
    "computed weight": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,3,6,6] x, float[4,3,3,3] k) => (float[n,4,4,4] y) { y = Conv(x, k) }""",
    "infinite weight": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,2] y) <float[2,2] w, float[2] limit = {3, inf}>
        { t = MatMul(x, w)  y = Min(t, limit) }""",
    "explicit ai.onnx domain": """<ir_version: 8, opset_import: ["ai.onnx": 17]>
        g (float[n,4] x) => (float[n,2] y) <float[4,2] w>
        { t = ai.onnx.MatMul(x, w)  y = ai.onnx.Relu(t) }""",
}

#: Valid ONNX that ONNX Runtime refuses, so no step can verify what it does to them.
NOT_RUNNABLE = frozenset({"custom op", "unknown op", "no outputs", "duplicate node names"})

#: Models that `load` refuses, with the error and what its message names.
BROKEN: dict[str, tuple[str, type[OnnxliteError], str]] = {
    "cycle": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { t = Add(x, u)  u = Relu(t)  y = Relu(u) }""",
        InvalidModelError,
        "cycle",
    ),
    "cycle in a body": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (bool f, float[2] x) => (float[2] y)
        { y = If(f) <then_branch = yes () => (float[2] a) { a = Add(x, b)  b = Relu(a) },
                     else_branch = no () => (float[2] c) { c = Relu(x) }> }""",
        InvalidModelError,
        "cycle",
    ),
    "undefined value": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { [adder] y = Add(x, ghost) }""",
        InvalidModelError,
        "input 1 of Add node 'adder'.*'ghost'",
    ),
    "undefined value in a body": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (bool f, float[2] x) => (float[2] y)
        { y = If(f) <then_branch = yes () => (float[2] a) { a = Relu(ghost) },
                     else_branch = no () => (float[2] b) { b = Relu(x) }> }""",
        InvalidModelError,
        "'ghost'",
    ),
    "undefined output": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y, float[2] ghost) { y = Relu(x) }""",
        InvalidModelError,
        "output.*'ghost'",
    ),
    "defined twice": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { y = Relu(x)  [again] y = Tanh(x) }""",
        InvalidModelError,
        "'y' is redeclared.*'again'",
    ),
    "input redefined": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { x = Relu(x)  y = Relu(x) }""",
        InvalidModelError,
        "'x' is redeclared",
    ),
    "initializer redefined": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { w = Relu(x)  y = Add(x, w) }""",
        InvalidModelError,
        "'w' is redeclared",
    ),
    "two inputs of one name": (
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, float[2] x) => (float[2] y) { y = Relu(x) }""",
        InvalidModelError,
        "'x' is defined twice",
    ),
    "no opset": (
        """<ir_version: 8, opset_import: []>
        g (float[2] x) => (float[2] y) { y = Relu(x) }""",
        InvalidModelError,
        "opset",
    ),
}


def parse(text: str, *, seed: int = 0) -> onnx.ModelProto:
    """The model of an ONNX text; a declared value that nothing computes becomes a weight."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for graph in _graphs(proto.graph):
        produced = {name for node in graph.node for name in node.output}
        for info in [info for info in graph.value_info if info.name not in produced]:
            graph.initializer.append(_random_tensor(info, rng))
            graph.value_info.remove(info)
    return proto


def feeds(name: str) -> list[dict[str, np.ndarray]]:
    """Two feeds that the model of the table takes, also where its shapes do not tell."""
    if name == "unnamed dims":
        specs = (InputSpec("x", "float32", (2, 3, 6, 6)),)
    elif name == "no shapes":
        specs = (InputSpec("x", "float32", (2, 3)),)
    else:
        specs = input_specs(load(odd(name)))
    return generate(specs, default_dim=2)


def odd(name: str) -> onnx.ModelProto:
    """One model of the table."""
    return parse(ODD[name])


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    bodies = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(inner for body in bodies for inner in _graphs(body))]


def _random_tensor(info: onnx.ValueInfoProto, rng: np.random.Generator) -> onnx.TensorProto:
    tensor = info.type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    data = rng.standard_normal(shape) * (0.5 if np.dtype(dtype).kind != "V" else 2.0)
    return onnx.numpy_helper.from_array(data.astype(dtype), info.name)
