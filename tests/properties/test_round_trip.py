"""Properties of saving and of samples, on random models, shapes and batches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxlite.inputs import InputSpec, feed_size
from onnxlite.model import load, to_bytes
from onnxlite.normalize import normalize
from onnxlite.runtime import run_all
from onnxlite.samples import Samples
from onnxlite.save import save

# The machine that runs this may be busy: no deadline. Examples are the same on every run.
repeatable = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)

UNARY = ("Relu", "Tanh", "Neg", "Identity", "Sigmoid")
BINARY = ("Add", "Mul", "Sub", "Max")
TYPES = {
    np.dtype(dtype): onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for dtype in ("float16", "float64", "int8", "uint16", "int64", "bool", "float32", "complex64")
} | {
    np.dtype(ml_dtypes.bfloat16): onnx.TensorProto.BFLOAT16,
    np.dtype(ml_dtypes.int4): onnx.TensorProto.INT4,
    np.dtype(ml_dtypes.uint4): onnx.TensorProto.UINT4,
    np.dtype(ml_dtypes.int2): onnx.TensorProto.INT2,
    np.dtype(ml_dtypes.uint2): onnx.TensorProto.UINT2,
    np.dtype(ml_dtypes.float8_e4m3fn): onnx.TensorProto.FLOAT8E4M3FN,
}


@st.composite
def models(draw) -> onnx.ModelProto:
    """A random acyclic graph over values of shape [n, 3], with weights in several places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values, nodes, weights = ["x"], [], []
    for index in range(draw(st.integers(1, 8))):
        op_type = draw(st.sampled_from((*UNARY, *BINARY, "MatMul", "Constant", "If")))
        name, source = f"v{index}", draw(st.sampled_from(values))
        if op_type == "Constant":
            tensor = onnx.numpy_helper.from_array(rng.standard_normal((1, 3)).astype(np.float32))
            nodes.append(onnx.helper.make_node("Constant", [], [f"c{index}"], value=tensor))
            nodes.append(onnx.helper.make_node("Add", [source, f"c{index}"], [name]))
        elif op_type == "MatMul":
            array = rng.standard_normal((3, 3)).astype(np.float32)
            weights.append(onnx.numpy_helper.from_array(array, f"w{index}"))
            nodes.append(onnx.helper.make_node("MatMul", [source, f"w{index}"], [name]))
        elif op_type == "If":
            bodies = {
                branch: onnx.helper.make_graph(
                    [onnx.helper.make_node(draw(st.sampled_from(UNARY)), [source], ["r"])],
                    branch,
                    [],
                    [onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
                )
                for branch in ("then_branch", "else_branch")
            }
            nodes.append(onnx.helper.make_node("If", ["flag"], [name], **bodies))
        elif op_type in BINARY:
            other = draw(st.sampled_from(values))
            nodes.append(onnx.helper.make_node(op_type, [source, other], [name]))
        else:
            nodes.append(onnx.helper.make_node(op_type, [source], [name]))
        values.append(name)
    outputs = draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "random",
        [info("x", onnx.TensorProto.FLOAT, ["n", 3]), info("flag", onnx.TensorProto.BOOL, [])],
        [info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in outputs],
        weights,
    )
    opset = draw(st.sampled_from((13, 17, 21)))
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )


@given(proto=models(), mode=st.sampled_from(("auto", "always", "never")), flag=st.booleans())
@repeatable
def test_saved_and_normal_models_compute_the_same(proto, mode, flag):
    feed = {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3), "flag": np.array(flag)}
    model = load(proto)
    (expected,) = run_all(model, [feed], threads=1, optimization="none")
    normal = load(proto)
    normalize(normal)
    with tempfile.TemporaryDirectory() as folder:
        saved = load(save(model, Path(folder) / "m.onnx", external_data=mode))
        for other in (saved, normal):
            (got,) = run_all(other, [feed], threads=1, optimization="none")
            assert got.keys() == expected.keys()
            for name in expected:
                np.testing.assert_array_equal(got[name], expected[name])
        assert to_bytes(load(written(saved, Path(folder)))) == to_bytes(saved)


def written(model, folder: Path) -> Path:
    path = folder / "again.onnx"
    path.write_bytes(to_bytes(model))
    return path


@given(
    dtype=st.sampled_from(sorted(TYPES, key=str)),
    shape=st.lists(st.integers(0, 7), max_size=3),
    raw=st.booleans(),
    seed=st.integers(0, 100),
    external=st.booleans(),
)
@settings(repeatable, max_examples=200)
def test_tensors_keep_every_bit(dtype, shape, raw, seed, external):
    rng = np.random.default_rng(seed)
    # Whatever bits a processor makes of numbers out of range, they are to be kept.
    with np.errstate(invalid="ignore"):
        array = rng.integers(-100, 100, shape).astype(np.float32).astype(dtype)
    if raw:
        tensor = onnx.numpy_helper.from_array(array, "w")
    else:
        tensor = onnx.helper.make_tensor("w", TYPES[dtype], shape, array.reshape(-1).tolist())
        array = onnx.numpy_helper.to_array(tensor)
    assert tensor.HasField("raw_data") == raw
    output = onnx.helper.make_tensor_value_info("w", TYPES[dtype], shape)
    graph = onnx.helper.make_graph([], "g", [], [output], [tensor])
    proto = onnx.helper.make_model(graph, ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        save(proto, path, external_data="always" if external else "never")
        read = load(path).graph.initializers["w"].const_value
        assert read is not None
        assert (tuple(read.shape), read.dtype.numpy()) == (tuple(shape), dtype)
        assert read.numpy().tobytes() == array.tobytes()
        (kept,) = onnx.load(path).graph.initializer
        assert onnx.numpy_helper.to_array(kept).tobytes() == array.tobytes()


@given(
    total=st.integers(1, 40),
    batch=st.integers(1, 9),
    inner=st.lists(st.integers(1, 4), max_size=2),
    limit=st.none() | st.integers(1, 50),
    form=st.sampled_from(("array", "dict", "batches", "tuples", "samples")),
)
@repeatable
def test_splitting_keeps_every_sample_in_order(total, batch, inner, limit, form):
    data = np.arange(total * int(np.prod(inner)), dtype=np.float32).reshape(total, *inner)
    spec = InputSpec("x", "float32", ("n", *inner))
    parts = [data[start : start + batch] for start in range(0, total, batch)]
    source = {
        "array": data,
        "dict": {"x": data},
        "batches": parts,
        "tuples": [(part, "label") for part in parts],
        "samples": Samples(data, [spec], batch_size=batch),
    }[form]
    samples = Samples(source, [spec], batch_size=batch, limit=limit)
    for _ in range(2):
        feeds = list(samples)
        np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]), data[:limit])
        assert all(1 <= feed_size(feed, [spec]) <= batch for feed in feeds)
    assert samples.count() == min(total, limit or total)


@given(
    total=st.integers(1, 30), fixed=st.integers(1, 6), other=st.sampled_from(("n", None, "same"))
)
@repeatable
def test_fixed_batches_keep_inputs_in_step(total, fixed, other):
    specs = [
        InputSpec("x", "float32", (fixed, 2)),
        InputSpec("y", "int64", (fixed if other == "same" else other,)),
    ]
    data = {"x": np.arange(total * 2.0).reshape(total, 2), "y": np.arange(total)}
    assume(total >= fixed)
    feeds = list(Samples(data, specs))
    assert len(feeds) == total // fixed
    for feed in feeds:
        assert feed["x"].shape == (fixed, 2)
        np.testing.assert_array_equal(feed["x"][:, 0], feed["y"] * 2)


@given(total=st.integers(1, 20), state=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@repeatable
def test_stacked_inputs_are_taken_one_by_one(total, state):
    specs = [InputSpec("x", "float32", ("n", 2)), InputSpec("s", "float32", (2, *state))]
    stacked = np.arange(float(total * 2 * np.prod(state))).reshape(total, 2, *state)
    data = {"x": np.arange(total * 2.0).reshape(total, 2), "s": stacked}
    feeds = list(Samples(data, specs))
    np.testing.assert_array_equal(np.stack([feed["s"] for feed in feeds]), stacked)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), data["x"])
