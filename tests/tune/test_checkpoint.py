"""An interrupted training ends as one that was not interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxlite.errors import OptionError
from onnxlite.prune import prune_channels
from onnxlite.tune import tune

pytest.importorskip("torch")


class Interruption(Exception):
    pass


@pytest.mark.parametrize("after", [1, 17])
def test_goes_on_where_it_was(net, images, tmp_path: Path, after: int):
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


def test_interrupted_before_the_first_step(net, images, tmp_path: Path):
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


def test_of_another_training(net, images, tmp_path: Path):
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


def test_folder_that_is_missing(net, images, tmp_path: Path):
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
