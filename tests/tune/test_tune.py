"""Tuning as a whole: it helps where something was lost, keeps structure, and says if not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import onnxlite
from models import data
from onnxlite import quantize_weights
from onnxlite.cli import app
from onnxlite.errors import MissingPackageError, OptionError, SamplesError
from onnxlite.evaluate import compare
from onnxlite.graph import const_array
from onnxlite.model import load
from onnxlite.normalize import normalize
from onnxlite.prune import prune_channels, prune_weights
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from onnxlite.save import save
from onnxlite.tune import tune
from tests.odd_models import parse

torch = pytest.importorskip("torch")

from onnxlite.tune.parameters import PackedWeight  # noqa: E402
from onnxlite.tune.step import inner_pairs  # noqa: E402
from onnxlite.tune.student import Student  # noqa: E402


def tensors(model: onnx.ModelProto | ir.Model) -> dict[str, NDArray[np.generic]]:
    found = load(model).graph.initializers.values()
    return {v.name: a for v in found if v.name and (a := const_array(v)) is not None}


def test_pruned_net_comes_closer(net, images, fresh):
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model
    before = small.SerializeToString()
    better, report = tune(net, small, images, steps=150)
    assert isinstance(better, onnx.ModelProto)
    assert report.changed, report.summary
    gain = compare(net, better, samples=fresh).sqnr_db - compare(net, small, samples=fresh).sqnr_db
    assert gain > 3
    assert small.SerializeToString() == before
    assert {n: a.shape for n, a in tensors(better).items()} == {
        n: a.shape for n, a in tensors(small).items()
    }


def test_inner_layers_are_matched_through_the_lineage(net, images):
    reference = load(net)
    normalize(reference)
    pairs = inner_pairs(reference, prune_channels(reference, samples=images[:64], macs=0.5).model)
    assert {"t", "s"} <= pairs.keys()
    kept = [pairs[name].kept for name in ("t", "s")]
    assert all(channels is not None and len(channels) < 16 for channels in kept)


def test_zeros_stay_zeros(net, images):
    sparse = prune_weights(net, sparsity=0.6, method="magnitude").model
    better = tune(net, sparse, images, steps=60).model
    for name, array in tensors(sparse).items():
        if array.ndim == 4:
            found = tensors(better)[name]
            assert (found[array == 0] == 0).all()
            assert (found != array).any()


def test_integers_and_scales_go_back_into_the_same_nodes(net, images, fresh):
    small = quantize_static(net, images[:32], rounding="nearest", equalize=False).model
    # Something to gain: rougher weights than 8 bits need.
    for tensor in small.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            rough = np.round(onnx.numpy_helper.to_array(tensor) / 24) * 24
            rough = np.clip(rough, -120, 120).astype(np.int8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(rough, tensor.name))
    better = tune(net, small, images, steps=150, loss="mse").model
    gain = compare(net, better, samples=fresh).sqnr_db - compare(net, small, samples=fresh).sqnr_db
    assert gain > 3
    assert [n.op_type for n in better.graph.node] == [n.op_type for n in small.graph.node]
    before, after = tensors(small), tensors(better)
    integers = [n for n, a in before.items() if a.dtype == np.int8 and a.ndim == 4]
    assert integers
    for name in integers:
        assert after[name].dtype == np.int8
        assert np.abs(after[name].astype(int)).max() <= np.abs(before[name].astype(int)).max()
    scales = {n.input[0]: n.input[1] for n in better.graph.node if n.op_type == "QuantizeLinear"}
    for node in small.graph.node:
        if node.op_type == "QuantizeLinear" and not before[node.input[2]].any():
            # The range may do the work of an activation, so it does not grow.
            assert after[scales[node.input[0]]] <= before[node.input[1]]
    for node in better.graph.node:
        if node.op_type == "Conv":
            made = {n.output[0]: n for n in better.graph.node}
            x, w, b = (made[name].input[1] for name in node.input)
            np.testing.assert_allclose(after[b], after[x] * after[w], rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 3, "ternary", "binary"])
def test_packed_codes_are_learned(net, images, fresh, bits):
    small = quantize_weights(net, bits=bits).model
    better = tune(net, small, images, steps=100, lr=0.01, threads=1).model
    assert [n.op_type for n in better.graph.node] == [n.op_type for n in small.graph.node]
    before, after = tensors(small), tensors(better)
    assert {n: (a.shape, a.dtype) for n, a in before.items()} == {
        n: (a.shape, a.dtype) for n, a in after.items()
    }
    words = [n for n, a in before.items() if n.startswith("w") and a.dtype.kind in "iu"]
    assert words
    assert any((before[n] != after[n]).any() for n in words)
    assert compare(net, better, samples=fresh).sqnr_db > compare(net, small, samples=fresh).sqnr_db


def test_packed_integers_are_learned(net, images, fresh):
    small = quantize_static(net, images[:64], weight_bits=3, rounding="nearest").model
    student = Student(load(small))
    assert sum(isinstance(item, PackedWeight) for item in student.constants) >= 1
    found = tensors(student.written())
    for name, array in tensors(small).items():
        if array.dtype == np.uint64:
            np.testing.assert_array_equal(found[name], array)
    better = tune(net, small, images, steps=100, lr=0.01, threads=1).model
    gain = compare(net, better, samples=fresh).sqnr_db - compare(net, small, samples=fresh).sqnr_db
    assert gain > 1


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2, "ternary", "binary"])
def test_packed_model_unlearned_is_the_same(net, bits):
    small = load(quantize_weights(net, bits=bits).model)
    student = Student(small)
    assert sum(isinstance(item, PackedWeight) for item in student.constants) >= 2
    found = tensors(student.written())
    for name, array in tensors(small).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3)


def test_student_starts_as_the_model(net, images):
    small = quantize_static(net, images[:32]).model
    student = Student(load(small))
    with torch.no_grad():
        found = student({"x": torch.tensor(images[:8])})["y"].numpy()
    want = Session(load(small), qdq="float", optimization="none")
    np.testing.assert_allclose(found, want.run({"x": images[:8]})["y"], atol=1e-4)
    untouched = tensors(student.written())
    for name, array in tensors(small).items():
        if array.dtype == np.int8 and array.ndim > 1:
            np.testing.assert_array_equal(untouched[name], array)


def test_scales_of_moved_values_stay_tied():
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2,4,4] x) => (float[n,2,2,2] y) <float s = {0.1}, uint8 z = {128}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
          m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)
          r = QuantizeLinear(m, s, z)  y = DequantizeLinear(r, s, z) }"""
    )
    student = Student(load(model))
    assert len(student.constants) == 1


def test_equal_scales_of_different_values_are_learned_apart():
    model = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,2] x) => (float[n,2] y) <float s = {0.1}, uint8 z = {0}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
          m = Sigmoid(d)  r = QuantizeLinear(m, s, z)  y = DequantizeLinear(r, s, z) }"""
    )
    student = Student(load(model))
    assert len(student.constants) == 2
    # Written back unlearned they are one constant again.
    assert len(student.written().graph.initializers) == 2


def test_nothing_to_gain_is_said(net, images, caplog):
    same, report = tune(net, net, images[:32], steps=5)
    assert not report.changed
    assert "did not get closer" in report.summary
    assert "tune changed nothing" in caplog.text
    assert compare(net, same, samples=images[:8]).sqnr_db == np.inf


def test_same_seed_same_model(net, images):
    small = prune_channels(net, samples=images[:64], macs=0.5).model
    one, two = (tune(net, small, images, steps=20, threads=1, seed=3).model for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()


def test_labels_and_own_losses(net, images):
    small = prune_channels(net, samples=images[:64], macs=0.5).model
    labels = Session(load(net)).run({"x": images})["y"].argmax(1)
    tune(net, small, images, steps=20, labels=labels)
    with pytest.raises(OptionError, match="one whole number per sample"):
        tune(net, small, images, steps=1, labels=labels[:5])
    seen: list[tuple[int, ...]] = []

    def loss(student, teacher):
        seen.append(tuple(student["y"].shape))
        return (student["y"] - teacher["y"]).abs().mean()

    tune(net, small, images, steps=2, loss=loss)
    assert seen


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"time_limit_s": 0.0},
        {"loss": "l1"},
        {"lr": -1.0},
        {"batch_size": 0},
        {"threads": 0},
    ],
)
def test_options_out_of_range(net, images, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        tune(net, net, images, **wrong)


def test_models_that_do_not_belong_together(net, images):
    other = onnx.ModelProto.FromString(net.SerializeToString())
    other.graph.node[-1].output[0] = other.graph.output[0].name = "z"
    with pytest.raises(OptionError, match="made from"):
        tune(other, net, images)


def test_one_sample_is_too_few(net, images):
    with pytest.raises(SamplesError, match="two samples"):
        tune(net, net, images[:1])


def test_without_torch(net, images, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    with pytest.raises(MissingPackageError, match=r"pip install 'onnxlite\[tune\]'"):
        tune(net, net, images)


def test_time_limit_ends_it(net, images):
    small = prune_channels(net, samples=images[:64], macs=0.5).model
    report = tune(net, small, images, time_limit_s=1.0).report
    assert report.seconds < 15
    assert int(report.summary.split()[0]) < 10_000


def test_as_a_step_of_a_recipe(net, images):
    steps = (
        onnxlite.PruneChannels(macs=0.5, repair=False),
        onnxlite.Tune(steps=60),
    )
    outcome = onnxlite.run(net, onnxlite.Recipe(steps), samples=images, benchmark=False)
    assert [report.step for report in outcome.report.steps] == ["prune-channels", "tune"]
    assert outcome.report.steps[1].changed
    again = onnxlite.Recipe.from_toml(onnxlite.Recipe(steps).to_toml())
    assert again.steps == steps


def test_command(net, images, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model
    save(load(net), Path("net.onnx"))
    save(load(small), Path("small.onnx"))
    np.save("x.npy", images)
    line = "tune net.onnx small.onnx --data x.npy --steps 60 --no-benchmark -o better.onnx"
    result = CliRunner().invoke(app, line.split(), prog_name="onnxlite")
    assert result.exit_code == 0, result.output
    fresh = images[:16]
    assert (
        compare(net, "better.onnx", samples=fresh).sqnr_db
        > compare(net, small, samples=fresh).sqnr_db
    )


@pytest.mark.slow
def test_residual_net_without_most_of_its_work(residual_path: Path):
    images = data.calibration_images()
    small = prune_channels(residual_path, samples=images[:256], macs=0.2).model
    better = tune(residual_path, small, images, steps=1500, threads=2).model
    test, labels = data.test_set()
    accuracy = [
        compare(residual_path, m, samples=test, labels=labels).agreement for m in (small, better)
    ]
    assert accuracy[1] is not None
    assert accuracy[0] is not None
    assert accuracy[1] > accuracy[0] + 0.02


BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,8] x, bool c) => (float[n,16] y) <float[8,32] a, float[32] b>
    { h = MatMul(x, a)  s = Add(h, b)  r = Relu(s)
      y = If (c) <
        then_branch = one () => (float[n,16] p) <float[32,16] u> { p = MatMul(r, u) },
        else_branch = two () => (float[n,16] q) <float[32,16] v> { q = MatMul(r, v) } > }"""


@pytest.mark.parametrize("bits", [0, 3])
def test_constants_in_branches_are_learned(bits):
    whole = parse(BRANCHES)
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal((8, 8), np.float32), "c": np.array(i % 2 == 0)} for i in range(40)
    ]
    small = load(whole)
    if bits:
        small = quantize_weights(small, bits=bits, block_size=0).model
    else:
        for graph in small.graphs():
            for value in graph.initializers.values():
                array = const_array(value)
                assert array is not None
                noise = 0.2 * rng.standard_normal(array.shape)
                value.const_value = ir.Tensor((array + noise).astype(np.float32), name=value.name)
    better = tune(whole, small, feeds, steps=200, lr=0.02).model
    gains = [compare(whole, m, samples=feeds[-4:]).sqnr_db for m in (small, better)]
    assert gains[1] > gains[0] + 1
    changed = {name for name, array in inner(small).items() if (inner(better)[name] != array).any()}
    assert len(changed) >= 2


def inner(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    """Constants of graphs inside of nodes."""
    graphs = [graph for graph in model.graphs() if graph is not model.graph]
    return {
        name: array
        for graph in graphs
        for name, value in graph.initializers.items()
        if (array := const_array(value)) is not None
    }
