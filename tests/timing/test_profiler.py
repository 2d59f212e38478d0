"""Profiles: times of nodes inside a model, whatever ONNX Runtime makes of their names."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.model import load
from onnxlite.timing.profiler import Kernel, Kernels, profile, undisturbed
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,16,16,16] x) => (float[n,4] y)
    <float[16,16,3,3] w, float[16] b, float[16,16,1,1] v, float[16] c, float[16,4] m, float[4] d>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) u = Conv(r, v, c) a = Add(u, r)
      p = GlobalAveragePool(a) f = Flatten(p) y = Gemm(f, m, d) }"""


@pytest.mark.parametrize(
    ("kernel", "output"),
    [
        ("first", "t"),
        ("first_token_12", "t"),
        ("r_nchwc", "r"),
        ("r_nchwc_token_3", "r"),
        ("fused first", "t"),
        ("second/ConvAddFusion", "u"),
        ("fused second_token_4", "u"),
        ("ReorderOutput", None),
        ("Transpose_token_1", None),
        ("nobody_nchwc", None),
    ],
)
def test_kernels_are_traced_to_nodes(kernel: str, output: str | None) -> None:
    model = load(parse(NET))
    for node, name in zip(model.graph, ("first", "act", "second"), strict=False):
        node.name = name
    found = Kernels(model, []).behind(Kernel(kernel, "Conv", 1.0))
    assert (None if found is None else found.outputs[0].name) == output


def test_every_layer_of_a_net_has_its_time() -> None:
    model = load(parse(NET))
    for index, node in enumerate(model.graph):
        node.name = f"node{index}"
    feed = {"x": np.random.default_rng(0).standard_normal((2, 16, 16, 16)).astype(np.float32)}
    kernels, again = profile([model, model], feed, threads=1, budget_s=0.05)
    seconds = {node.outputs[0].name: spent for node, spent in kernels.seconds().items()}
    # The first convolution and its activation are one kernel, named after either.
    assert seconds.get("t", 0) + seconds.get("r", 0) > seconds["u"] > 0
    assert seconds["y"] > 0
    assert again.seconds().keys() == kernels.seconds().keys()


def test_other_work_on_the_machine_does_not_count() -> None:
    assert undisturbed([2.0, 9.0, 3.0, 50.0, 9.0, 9.0, 9.0, 9.0]) == 2.5
    assert undisturbed([7.0]) == 7.0
