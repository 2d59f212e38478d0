"""What is better by chance is told from what is better."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from onnxlite.model import load
from onnxlite.tune.dataset import Dataset, Row
from onnxlite.tune.losses import Loss
from onnxlite.tune.significance import chance_of, losses_of
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,4] x) => (float[n,2] y)
    <float[4,2] w, float[2] b> { t = MatMul(x, w)  y = Add(t, b) }"""


def test_noise_is_chance_and_a_steady_gain_is_none():
    rng = np.random.default_rng(0)
    before = 1 + rng.random(64)
    noisy = before + 0.1 * rng.standard_normal(64)
    noisy += (before - noisy).mean() - 0.005
    assert chance_of(before, noisy) > (before - noisy).mean() > 0
    steady = before * 0.99
    assert 0 < chance_of(before, steady) < (before - steady).mean()
    assert chance_of(before[:4], noisy[:4]) == 0


def test_losses_row_by_row_and_of_a_function_as_one():
    model = load(parse(NET))
    rng = np.random.default_rng(0)
    held = [
        Row(
            {"x": torch.from_numpy(rng.standard_normal((1, 4), np.float32))},
            {"y": torch.zeros(1, 2)},
        )
        for _ in range(10)
    ]
    data = Dataset([], held, ["y"], [], count=10, batchable=True)
    known = Loss(outputs=["y"], classes={}, inner=[], variances={"y": 1.0})
    each = losses_of(model, known, data, batch_size=4, threads=1)
    assert each.shape == (10,)
    sizes: list[int] = []

    def own(student, teacher):
        sizes.append(len(student["y"]))
        return (student["y"] - teacher["y"]).square().mean()

    custom = Loss(outputs=["y"], classes={}, inner=[], variances={"y": 1.0}, custom=own)
    one = losses_of(model, custom, data, batch_size=4, threads=1)
    assert sizes == [4, 4, 2]
    assert one == pytest.approx([each.mean()], rel=1e-5)
