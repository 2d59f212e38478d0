"""The torch executor: as ONNX Runtime on whole models, with gradients, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import zoo
from models.fetch import PackageMissing
from models.light import NAMES, light_models
from onnxlite import quantize_weights
from onnxlite.errors import UnsupportedError
from onnxlite.inputs import Feed
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session, probe_feeds
from tests.conftest import FASHION
from tests.odd_models import parse

torch = pytest.importorskip("torch")

from onnxlite.tune.torch_graph import TorchGraph, torch_feed  # noqa: E402


def farthest(path: Path, feeds: list[Feed] | None = None) -> float:
    """The largest difference from ONNX Runtime, over the largest value of the output."""
    model = load(path)
    session, graph, worst = Session(model, threads=1), TorchGraph(model), 0.0
    for feed in feeds or probe_feeds(model):
        with torch.no_grad():
            found = graph(torch_feed(feed))
        for name, want in session.run(feed).items():
            assert found[name].shape == want.shape
            error = np.abs(found[name].numpy() - want).max()
            worst = max(worst, float(error / np.abs(want).max()))
    return worst


@pytest.mark.parametrize("name", ["residual", "mobilenet", "vit"])
def test_committed_nets(name: str):
    path = FASHION / f"{name}.onnx"
    feeds = [
        {"image": np.random.default_rng(n).standard_normal((n, 1, 28, 28), np.float32)}
        for n in (1, 3)
    ]
    assert farthest(path, feeds) < 1e-4


def sentences() -> list[Feed]:
    rows = zoo.sentences(3, 16)
    shorter = {name: array[:1, :7] for name, array in rows.items()}
    return [dict(rows), shorter]


@pytest.mark.parametrize(
    ("model", "feeds"),
    [
        (zoo.efficientnet_lite0, None),
        (zoo.sentence_encoder, sentences),
        (zoo.voice_activity, lambda: zoo.voice_samples(4)),
        (zoo.file_type, lambda: [zoo.file_samples(3)]),
    ],
)
def test_zoo(model: Callable[[], Path], feeds: Callable[[], list[Feed]] | None):
    try:
        path, samples = model(), feeds() if feeds else None
    except PackageMissing as error:
        pytest.skip(str(error))
    assert farthest(path, samples) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_light_models(name: str):
    try:
        path = light_models((name,))[name]
    except PackageMissing as error:
        pytest.skip(str(error))
    assert farthest(path) < 1e-4


def test_static_int8_is_computed_as_the_graph_says(residual_path: Path, tmp_path: Path):
    images = np.random.default_rng(0).standard_normal((16, 1, 28, 28), np.float32)
    model = quantize_static(residual_path, images, rounding="nearest", equalize=False).model
    # Without ONNX Runtime's fusions, which round at other places.
    session = Session(model, threads=1, qdq="float", optimization="none")
    want = session.run({"image": images})["logits"]
    with torch.no_grad():
        found = TorchGraph(model)({"image": torch.tensor(images)})["logits"].numpy()
    # A value on the edge of two steps may fall to either side, and that goes on from there.
    assert np.abs(found - want).mean() < 2e-2 * np.abs(want).mean()


@pytest.mark.parametrize("bits", [4, 3, "ternary", "binary"])
def test_packed_weights_are_decoded_once(residual_path: Path, bits):
    model = quantize_weights(residual_path, bits=bits).model
    graph = TorchGraph(model)
    assert len(graph._nodes) < len(list(graph.model.graph)) / 2
    images = np.random.default_rng(0).standard_normal((2, 1, 28, 28), np.float32)
    want = Session(model, threads=1).run({"image": images})["logits"]
    found = graph({"image": torch.tensor(images)})["logits"].numpy()
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_gradients_reach_what_is_tuned():
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n,3] x) => (float[n,2] y) <float[3,2] w = {1,2,3,4,5,6}>
            { h = MatMul(x, w)  y = Relu(h) }"""
        )
    )
    graph = TorchGraph(model, tuned=["w"])
    weight = torch.ones(3, 2, requires_grad=True)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    result = graph({"x": x}, tuned={"w": weight}, taps=["h"])
    assert result["h"].tolist() == [[6, 6]]
    result["y"].sum().backward()
    assert weight.grad.tolist() == [[1, 1], [2, 2], [3, 3]]


def test_gradient_of_a_scale_is_that_of_lsq():
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[n] x) => (float[n] y) <float s = {0.5}, int8 z = {0}>
            { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
        )
    )
    graph = TorchGraph(model, tuned=["s"])
    scale = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([0.6, -0.9, 1000.0], requires_grad=True)
    y = graph({"x": x}, tuned={"s": scale})["y"]
    assert y.tolist() == [0.5, -1.0, 63.5]
    y.sum().backward()
    # round(v) - v with v = 1.2 and -1.8, and the bound where v is beyond it.
    assert scale.grad.item() == pytest.approx((1 - 1.2) + (-2 + 1.8) + 127, abs=1e-4)
    assert x.grad.tolist() == pytest.approx([1, 1, 0])


def test_unknown_operator_is_named():
    model = load(
        parse(
            """<ir_version: 8, opset_import: ["": 17, "com.example": 1]>
            g (float[n,3] x) => (float[n,3] y) { y = com.example.Strange(x) }"""
        )
    )
    with pytest.raises(UnsupportedError, match=r"Strange.*com\.example"):
        TorchGraph(model)


def test_the_model_is_not_changed(residual_path: Path):
    model = load(residual_path)
    before = [node.name for node in model.graph]
    TorchGraph(model)
    assert [node.name for node in model.graph] == before


def test_importing_onnxlite_imports_no_torch():
    code = "import onnxlite, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
