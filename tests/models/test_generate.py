from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models import light
from models.generate import large_model
from models.light import NAMES, fill, light_models, read_light


def run(path: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def test_large_model_keeps_its_weights_outside_and_runs(tmp_path: Path) -> None:
    path = large_model(tmp_path / "large.onnx", gib=8 / 1024, width=512)
    onnx.checker.check_model(str(path))
    assert (tmp_path / "large.onnx.data").stat().st_size == 8 * 2**20
    assert path.stat().st_size < 100_000
    operators = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert operators[:7] == [
        "Identity",
        "Gemm",
        "BatchNormalization",
        "Relu",
        "Dropout",
        "MatMul",
        "Add",
    ]
    assert len(operators) == 28
    x = np.random.default_rng(1).standard_normal((3, 512), np.float32)
    (y,) = run(path, {"x": x})
    assert y.shape == (3, 512)
    assert 1 < y.std() < 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]


def test_large_model_is_seeded(tmp_path: Path) -> None:
    paths = [
        large_model(tmp_path / name, gib=1 / 1024, width=128, seed=seed)
        for name, seed in (("a.onnx", 0), ("b.onnx", 0), ("c.onnx", 1))
    ]
    a, b, c = (path.with_name(path.name + ".data").read_bytes() for path in paths)
    assert a == b
    assert a != c


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_filled_light_models_run_and_are_alive(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))
    path = light_models([name])[name]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert len(model.graph.input) == 1
    assert not [node for node in model.graph.node if node.op_type == "ConstantOfShape"]
    for tensor in model.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name

    # Cut the softmax off: the logits of two images must differ, and be neither huge nor zero.
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    del model.graph.output[:]
    model.graph.output.add(name=softmax.input[0])
    model.graph.node.remove(softmax)
    onnx.save(model, tmp_path / "logits.onnx")
    # Smooth images as those that the weights were scaled on, but others: seed 7, not 0.
    images = light._images([1, 3, 224, 224], 7)[:2]
    logits = [run(tmp_path / "logits.onnx", {model.graph.input[0].name: x})[0] for x in images]
    for y in logits:
        assert 0.05 < y.std() < 20
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] < 0.9


def test_fill_is_seeded() -> None:
    empty = read_light("squeezenet")
    first, again, other = (fill(empty, seed=seed).SerializeToString() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_every_light_model_is_carried_by_onnx() -> None:
    for name in NAMES:
        assert read_light(name).opset_import[0].version == 9


def test_unknown_light_model_is_named() -> None:
    with pytest.raises(ValueError, match="no light model lenet; there are bvlc_alexnet"):
        light_models(["lenet"])
