"""Every format of weights on every odd way in which a model may hold them.

Whatever a step does, ONNX Runtime runs its result with outputs of the same types and shapes,
close to the original's, and no initializer is left that nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite import prune_weights, quantize_weights, sparse_storage, to_float16
from onnxlite.model import load
from onnxlite.runtime import Session
from tests.odd_models import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[n,64] x) => (float[n,64] y) '
CASES = {
    "shared": HEAD + "<float[64,64] w> { t = MatMul(x, w) r = Relu(t) y = Gemm<transB=1>(r, w) }",
    "tied head": HEAD
    + """<float[64,64] w, int64[1] i = {3}>
        { e = Gather(w, i) a = Add(x, e) v = Transpose<perm=[1,0]>(w) y = MatMul(a, v) }""",
    "matrix and table": HEAD
    + "<float[64,64] w, int64[1] i = {3}> { t = MatMul(x, w) e = Gather(w, i) y = Add(t, e) }",
    "empty and scalar": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y, float[n,0] z)
        <float[64,64] w, float[64,0] none, float s = {2.0}>
        { a = MatMul(x, w) y = Mul(a, s) z = MatMul(x, none) }""",
    "double": """<ir_version: 8, opset_import: ["": 17]> g (double[n,64] x) => (double[n,64] y)
        <double[64,64] w> { y = MatMul(x, w) }""",
    "half already": """<ir_version: 8, opset_import: ["": 17]>
        g (float16[n,64] x) => (float16[n,64] y) <float16[64,64] w> { y = MatMul(x, w) }""",
    "opset 9": """<ir_version: 4, opset_import: ["": 9]> g (float[n,64] x) => (float[n,64] y)
        <float[64,64] w> { y = MatMul(x, w) }""",
    "packed already": HEAD + "<float[64,64] w> { y = MatMul(x, w) }",
    "on integers already": HEAD
    + """<float s = {0.02}, uint8 z = {128}, float[64] t, int8[64,64] w>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
          u = Abs(t) v = DequantizeLinear<axis=1>(w, u) y = MatMul(d, v) }""",
    "in a branch": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,64] x) => (float[n,64] y) <float[64,64] w>
        { s = ReduceSum<keepdims=0>(x) zero = Constant<value_float=0.0>() c = Greater(s, zero)
          y = If(c) <
            then_branch = yes () => (float[n,64] a) <float[64,64] v> { a = MatMul(x, v) },
            else_branch = no () => (float[n,64] b) { b = MatMul(x, w) }> }""",
    "recurrent": """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2,64] x) => (float[n,1,2,64] y)
        <float[1,192,64] w, float[1,192,64] r> { y = GRU<hidden_size=64>(x, w, r) }""",
}


def _samples(proto: onnx.ModelProto) -> np.ndarray:
    value = proto.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)
    shape = (32, *(dim.dim_value for dim in value.shape.dim[1:]))
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _sparse(proto: onnx.ModelProto) -> onnx.ModelProto:
    return sparse_storage(prune_weights(proto, sparsity=0.8, method="magnitude").model).model


Step = Callable[[onnx.ModelProto], onnx.ModelProto]
#: Each step, and the least SQNR in dB that it leaves.
STEPS: dict[str, tuple[Step, float]] = {
    "zeros": (lambda m: prune_weights(m, sparsity=0.3, method="magnitude").model, 8),
    "zeros by samples": (lambda m: prune_weights(m, sparsity=0.3, samples=_samples(m)).model, 8),
    "sparse storage": (_sparse, 0),
    "float16": (lambda m: to_float16(m).model, 50),
    "float16 storage": (lambda m: to_float16(m, mode="storage").model, 50),
    "bfloat16": (lambda m: to_float16(m, dtype="bfloat16").model, 35),
    "8 bits": (lambda m: quantize_weights(m, bits=8, first_last_bits="same").model, 35),
    "4 bits, fitted": (
        lambda m: quantize_weights(m, samples=_samples(m), bits=4, first_last_bits="same").model,
        12,
    ),
    "4 bits, computed": (
        lambda m: quantize_weights(m, bits=4, mode="compute", first_last_bits="same").model,
        12,
    ),
    "ternary": (lambda m: quantize_weights(m, bits="ternary", first_last_bits="same").model, 2),
    "mixed": (lambda m: quantize_weights(m, max_size=0.5).model, 12),
}


def _model(name: str) -> onnx.ModelProto:
    proto = parse(CASES[name])
    if name == "recurrent":
        # Of large weights recurrence makes noise out of any difference.
        for tensor in proto.graph.initializer:
            small = onnx.numpy_helper.to_array(tensor) / 8
            tensor.CopyFrom(onnx.numpy_helper.from_array(small, tensor.name))
    return (
        quantize_weights(proto, bits=4, first_last_bits="same").model
        if name == "packed already"
        else proto
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", STEPS)
def test_it_runs_and_is_close(case: str, step: str) -> None:
    proto = _model(case)
    before = proto.SerializeToString()
    apply, least_db = STEPS[step]
    result = apply(proto)
    assert proto.SerializeToString() == before
    feed = {"x": _samples(proto)}
    model = load(result)
    want, got = Session(load(proto)).run(feed), Session(model).run(feed)
    signal = noise = 0.0
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        signal += float((array.astype(np.float64) ** 2).sum())
        noise += float(((array.astype(np.float64) - got[name]) ** 2).sum())
    assert noise == 0 or 10 * np.log10(signal / noise) > least_db
    assert not [name for graph in model.graphs() for name in _unread(graph)]


def _unread(graph: ir.Graph) -> list[str]:
    return [
        name
        for name, value in graph.initializers.items()
        if not (value.uses() or value.is_graph_output() or value.is_graph_input())
    ]
