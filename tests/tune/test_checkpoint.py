"""An interrupted training ends as one that was not interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.prune import prune_channels
from onnxlite.tune import tune
from tests.odd_models import parse

pytest.importorskip("torch")

NET = """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,3,8,8] x) => (float[n,4] y)
    <float[16,3,3,3] w, float[16] b, float[16,16,3,3] u, float[16] c, float[16,4] v>
    { t = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(t)
      s = Conv<pads=[1,1,1,1]>(r, u, c)  a = Add(r, s)  q = Relu(a)
      p = GlobalAveragePool(q)  f = Flatten(p)  y = MatMul(f, v) }"""


class Interruption(Exception):
    pass


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((120, 3, 8, 8), np.float32)


@pytest.mark.parametrize("after", [1, 17])
def test_goes_on_where_it_was(images, tmp_path: Path, after: int):
    net = parse(NET)
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model
    file = tmp_path / "state"
    whole = tune(net, small, images, steps=30, threads=1).model
    calls: list[str] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        if "loss" not in stage:
            return  # the short trials of learning rates before the training
        calls.append(stage)
        if len(calls) == after:
            raise Interruption

    with pytest.raises(Interruption):
        tune(net, small, images, steps=30, threads=1, checkpoint=file, progress=interrupt)
    assert file.exists()
    again = tune(net, small, images, steps=30, threads=1, checkpoint=file, progress=interrupt).model
    assert len(calls) == 30
    assert again.SerializeToString() == whole.SerializeToString()
    assert not file.exists()
    assert "loss" in calls[-1]
    assert "left" in calls[-1]


def test_interrupted_before_the_first_step(images, tmp_path: Path):
    net = parse(NET)
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model
    file = tmp_path / "state"
    stages: list[str] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if len(stages) == 3:
            raise Interruption

    with pytest.raises(Interruption):
        tune(net, small, images, steps=30, threads=1, checkpoint=file, progress=interrupt)
    assert "learning rate" in stages[-1]
    # Nothing is learned yet that could be lost.
    assert not file.exists()
    again = tune(net, small, images, steps=30, threads=1, checkpoint=file).model
    whole = tune(net, small, images, steps=30, threads=1).model
    assert again.SerializeToString() == whole.SerializeToString()


def test_of_another_training(images, tmp_path: Path):
    net = parse(NET)
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model
    file = tmp_path / "state"

    def interrupt(stage: str, done: int, total: int) -> None:
        raise Interruption

    with pytest.raises(Interruption):
        tune(net, small, images, steps=30, lr=0.01, checkpoint=file, progress=interrupt)
    with pytest.raises(OptionError, match="another model"):
        tune(net, small, images, steps=30, lr=0.01, seed=1, checkpoint=file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(OptionError, match="cannot be read"):
        tune(net, small, images, steps=30, lr=0.01, checkpoint=file)


def test_folder_that_is_missing(images, tmp_path: Path):
    net = parse(NET)
    small = prune_channels(net, samples=images[:64], macs=0.5, repair=False).model

    def interrupt(stage: str, done: int, total: int) -> None:
        raise Interruption

    with pytest.raises(OptionError, match="checkpoint"):
        tune(
            net,
            small,
            images,
            steps=30,
            lr=0.01,
            checkpoint=tmp_path / "none" / "state",
            progress=interrupt,
        )
