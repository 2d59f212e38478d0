"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.external_data_helper
import pytest
from hypothesis import settings

from onnxlite.timing import use_timer
from tests.odd_models import parse

# No test is about time, and a busy machine takes longer than Hypothesis allows.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

FASHION = Path(__file__).parent.parent / "models" / "fashion"


@pytest.fixture(autouse=True, scope="session")
def no_timer() -> Iterator[None]:
    """Nothing is decided by times, so that no test depends on what else the machine does."""
    with use_timer(None):
        yield


@pytest.fixture
def residual_path() -> Path:
    """The committed residual net."""
    path = FASHION / "residual.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there: train it with `python -m models.train`")
    return path


@pytest.fixture
def external_model(tmp_path: Path) -> Path:
    """A model whose two large weights live in `big.onnx.data` beside it."""
    proto = parse(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,32] x) => (float[n,16] y) <float[32,32] w, float[32,16] v, float[16] b>
        { t = MatMul(x, w)  u = MatMul(t, v)  y = Add(u, b) }"""
    )
    path = tmp_path / "big.onnx"
    onnx.save(
        proto, path, save_as_external_data=True, location="big.onnx.data", size_threshold=1024
    )
    return path
