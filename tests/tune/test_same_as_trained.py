"""What ONNX Runtime runs is what torch trained, at the cost that the model had before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from models import data
from onnxlite import quantize_weights
from onnxlite.model import load, size_bytes
from onnxlite.prune import prune_channels
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Session
from onnxlite.tune import tune
from tests.conftest import FASHION

torch = pytest.importorskip("torch")

from onnxlite.tune.torch_graph import TorchGraph  # noqa: E402

DAMAGE: dict[str, Callable[[ir.Model], ir.Model]] = {
    "half of the MACs": lambda m: prune_channels(m, macs=0.5, repair=False).model,
    "ternary": lambda m: quantize_weights(m, bits="ternary").model,
    "4-bit weights, int8 activations": lambda m: (
        quantize_static(
            m, data.calibration_images(32), rounding="nearest", equalize=False, weight_bits=4
        ).model
    ),
}


def form(model: ir.Model) -> list[object]:
    """Operators, attributes, shapes and types of weights: what time and size depend on."""
    constants = [
        (value.const_value.shape.numpy(), value.const_value.dtype)
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.shape.rank() > 1
    ]
    nodes = [(node.op_type, str(dict(node.attributes))) for node in model.graph]
    return [*nodes, *sorted(map(str, constants))]


SLOW = [pytest.param(damage, marks=pytest.mark.slow, id=name) for name, damage in DAMAGE.items()]


@pytest.mark.parametrize("damage", [pytest.param(DAMAGE["ternary"], id="ternary"), *SLOW[::2]])
def test_accuracy_in_onnxruntime_is_that_in_torch(damage):
    original = load(FASHION / "mobilenet.onnx")
    small = damage(original)
    images, labels = data.test_set()
    tuned = tune(original, small, data.calibration_images(64), steps=20, lr=0.003, threads=1).model
    expected = Session(tuned, threads=1).run({"image": images})["logits"].argmax(1)
    graph = TorchGraph(tuned)
    with torch.no_grad():
        parts = [torch.from_numpy(images[i : i + 250]) for i in range(0, len(images), 250)]
        found = torch.cat([graph({"image": part})["logits"] for part in parts]).argmax(1).numpy()
    assert abs((expected == labels).mean() - (found == labels).mean()) <= 1e-3
    assert np.count_nonzero(expected != found) <= len(images) // 200
    assert form(tuned) == form(small)
    assert abs(size_bytes(tuned) - size_bytes(small)) <= 0.01 * size_bytes(small)
