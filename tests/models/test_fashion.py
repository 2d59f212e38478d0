"""The committed nets are well trained, and their data sets do not overlap."""

from __future__ import annotations

import numpy as np
import pytest

from models import data
from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.runtime import Session
from tests.conftest import FASHION


@pytest.mark.parametrize(
    ("name", "least"), [("residual", 0.93), ("mobilenet", 0.925), ("vit", 0.885)]
)
def test_accuracy(name: str, least: float) -> None:
    model = load(FASHION / f"{name}.onnx")
    (spec,) = input_specs(model)
    assert isinstance(spec.shape[0], str)
    images, labels = data.test_set(full=data.has_full_set())
    session = Session(model)
    logits = [session.run({spec.name: images[i : i + 500]}) for i in range(0, len(images), 500)]
    classes = np.concatenate([outputs["logits"].argmax(1) for outputs in logits])
    assert (classes == labels).mean() >= least


def test_no_calibration_image_is_a_test_image() -> None:
    calibration = {image.tobytes() for image in data.calibration_images()}
    images, labels = data.test_set()
    assert len(calibration) == 1024
    assert images.shape == (2000, 1, 28, 28)
    assert labels.shape == (2000,)
    assert not calibration & {image.tobytes() for image in images}


def test_no_path_of_a_machine_is_in_the_files() -> None:
    for path in FASHION.glob("*.onnx"):
        assert b"site-packages" not in path.read_bytes()
