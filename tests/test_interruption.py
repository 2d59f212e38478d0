"""Interruption: work ends at the next run or fit after a check has raised."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite import quantize_static
from onnxlite.interruption import checked_by, checkpoint
from onnxlite.model import load
from onnxlite.runtime import Session
from onnxlite.simplify import onnxsim
from tests.odd_models import parse

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,4,8,8] y)
    <float[4,3,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }"""


class TimeUp(BaseException):
    """What the check raises."""


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)


def ends_after(checks: int):
    """A check that raises when it was called so often."""
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count > checks:
            raise TimeUp

    return check


def test_nothing_is_checked_outside_of_the_context() -> None:
    with pytest.raises(TimeUp), checked_by(ends_after(0)):
        checkpoint()
    checkpoint()


@pytest.mark.parametrize("checks", [0, 1, 5, 20])
def test_a_step_ends_at_once(checks: int) -> None:
    with pytest.raises(TimeUp), checked_by(ends_after(checks)):
        quantize_static(parse(TEXT), images())


def test_a_run_is_checked() -> None:
    session = Session(load(parse(TEXT)))
    with pytest.raises(TimeUp), checked_by(ends_after(0)):
        session.run({"x": images()[:1]})


def test_onnxsims_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxsim, "_POLL_S", 0.01)
    with pytest.raises(TimeUp), checked_by(ends_after(2)):
        onnxsim.run_onnxsim(load(parse(TEXT)), time_limit=60.0, fold_bytes=1 << 20)
    assert "did not finish" in str(
        onnxsim.run_onnxsim(load(parse(TEXT)), time_limit=0.0, fold_bytes=1 << 20)
    )
