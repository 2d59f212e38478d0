"""Work grows with the number of layers, not with its square: sessions are counted, not times."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxlite import quantize_weights
from onnxlite.runtime import Session

CHANNELS = 16


def chain(layers: int) -> onnx.ModelProto:
    """Residual convolutions, one behind the other."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index in range(layers):
        array = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * 0.05).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{index}"))
        conv = helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], pads=[1] * 4)
        relu = helper.make_node("Relu", [f"c{index}"], [f"r{index}"])
        nodes += [conv, relu, helper.make_node("Add", [value, f"r{index}"], [f"a{index}"])]
        value = f"a{index}"
    shape = ["n", CHANNELS, 4, 4]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="hqq"),
        pytest.param({"bits": 3, "method": "rtn"}, id="rtn"),
        pytest.param({"max_size": 0.3}, id="max-size"),
    ],
)
def test_sessions_do_not_grow_with_layers(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    construct = Session.__init__

    def counted(self: Session, *args: object, **given: object) -> None:
        nonlocal count
        count += 1
        construct(self, *args, **given)

    monkeypatch.setattr(Session, "__init__", counted)
    sessions = []
    for layers in (3, 24):
        count = 0
        quantize_weights(chain(layers), **options)
        sessions.append(count)
    assert sessions[0] == sessions[1]
