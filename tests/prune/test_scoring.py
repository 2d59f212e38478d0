"""What the loss of a group does to the outputs, measured without changing the model."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.model import load, to_bytes
from onnxlite.prune import PruneChannels, prune_channels, scoring
from onnxlite.prune.task import analyse
from onnxlite.step import StepContext
from tests.odd_models import parse

#: The second branch hardly reaches the output; no layer has a bias.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,6] x) => (float[n,4] y)
    <float[6,8] a, float[8,4] b, float[6,8] c, float[8,4] d, float small = {0.01}>
    { h = MatMul(x, a) r = Relu(h) s = MatMul(r, b) i = MatMul(x, c) t = Relu(i)
      u = MatMul(t, d) w = Mul(u, small) y = Add(s, w) }"""
CONV = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,6,6] x) => (float[n,4,6,6] y)
    <float[8,3,1,1] a, float[8,8,1,1] b, float[4,8,1,1] c>
    { h = Conv(x, a) r = Relu(h) i = Conv(r, b) t = Relu(i) y = Conv(t, c) }"""


@pytest.mark.parametrize("repaired_macs", [0.0, 1e12])
def test_a_group_that_does_not_reach_the_output_is_cheap(
    repaired_macs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_REPAIRED_MACS", repaired_macs)
    x = np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)
    options = PruneChannels(macs=0.49)
    task = analyse(load(parse(NET)), x, options, StepContext(threads=1))
    scored = scoring.score_groups(task)
    before = to_bytes(task.model)
    curves = scoring.output_curves(task, scored)
    assert to_bytes(task.model) == before
    near, far = (c.damage[4] for c in curves if len(c.order))
    local = [c.damage[4] for c in scored.curves if len(c.order)]
    assert local[0] < 10 * local[1]
    assert far < 0.01 * near


def test_layers_without_a_bias_are_pruned_after_cheap_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "_REPAIRED_MACS", 0.0)
    samples = np.random.default_rng(0).standard_normal((64, 3, 6, 6)).astype(np.float32)
    report = prune_channels(parse(CONV), samples=samples, macs=0.5, round_to=1).report
    assert report.changes.units_removed > 3
