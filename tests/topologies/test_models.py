"""The oracle on real models; those that need a download skip without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import zoo
from models.fetch import FetchError
from onnxlite.analysis.shapes import generated_feed
from onnxlite.model import load
from onnxlite.prune import explain_channels
from onnxlite.simplify import simplify
from tests.topologies.oracle import check_pruned, mapped, random_branches, random_units

FASHION = Path(__file__).parents[2] / "models" / "fashion"


def model_path(name: str) -> Path:
    if name in ("residual", "mobilenet", "vit"):
        path = FASHION / f"{name}.onnx"
        if not path.is_file():
            pytest.skip(f"{path} is not there: train it with `python -m models.train`")
        return path
    try:
        if name == "sentence encoder":
            return zoo.sentence_encoder()
        return zoo.file_type() if name == "magika" else zoo.light_models([name])[name]
    except FetchError as error:
        pytest.skip(str(error))


#: Model, and how many units of how many may go.
MODELS = {
    "residual": (504, 514),
    "mobilenet": (1448, 1458),
    "vit": (784, 858),
    "magika": (64, 790),
    "squeezenet": (2944, 3944),
}


@pytest.mark.parametrize("name", MODELS)
def test_prunable_units(name):
    report = explain_channels(model_path(name))
    assert (report.prunable, report.units) == MODELS[name]


@pytest.mark.parametrize("name", ["residual", "mobilenet", "vit", "magika"])
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1000))
def test_pruned_equals_zeroed(name, seed):
    path = model_path(name)
    model, channels = mapped(path)
    feed = generated_feed(model, batch=2, seed=seed)
    units = random_units(channels, seed) + random_branches(model, channels, seed)
    check_pruned(path, units, [feed])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "squeezenet", "shufflenet", "sentence encoder"])
def test_larger_pruned_equals_zeroed(name):
    path = model_path(name)
    model, channels = mapped(path)
    units = random_units(channels, 1) + random_branches(model, channels, 1)
    check_pruned(path, units, [generated_feed(model)])


@pytest.mark.slow
def test_simplified_encoder_has_the_same_units():
    path = model_path("sentence encoder")
    plain, simple = explain_channels(path), explain_channels(simplify(load(path)).model)
    assert plain.prunable == simple.prunable == 3 * (12 + 1536)
