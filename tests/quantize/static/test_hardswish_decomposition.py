"""HardSwish in integer pieces: the same function, on integers, where that is faster."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxlite.fidelity import worst_sqnr_db
from onnxlite.model import load
from onnxlite.quantize import quantize_static
from onnxlite.records import StepReport
from onnxlite.runtime import Session
from onnxlite.timing import use_timer
from tests.fake_timer import FakeTimer
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8,12,12] x) => (float[n,8,12,12] y)
    <float[16,8,1,1] w, float[16] b, float[8,16,1,1] v, float[8] c>
    { t = Conv(x, w, b) h = HardSwish(t) y = Conv(h, v, c) }"""


@pytest.fixture
def timer_says() -> Iterator[Callable[[float], None]]:
    """Sets what the time of the decomposed model over the other one's comes to."""
    with contextlib.ExitStack() as stack:
        yield lambda ratio: stack.enter_context(use_timer(FakeTimer(lambda *_: [ratio])))


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 8, 12, 12)).astype(np.float32)


def quantized(**options: object) -> tuple[ir.Model, StepReport]:
    result, report = quantize_static(
        load(parse(NET)),
        images(16),
        rounding="nearest",
        placement="everything",
        **options,
    )
    return result, report


def executed(model: ir.Model, tmp_path: Path) -> Counter[str]:
    path = tmp_path / "optimized.onnx"
    Session(model, threads=1, optimized_path=path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_faster_pieces_are_taken_and_run_on_integers(timer_says, tmp_path: Path) -> None:
    timer_says(1.0)
    whole, _ = quantized()
    timer_says(0.9)
    model, report = quantized()
    assert report.changes["hardswish-in-pieces"] == 1
    ran = executed(model, tmp_path)
    assert ran["QLinearConv"] == 2
    assert ran["QLinearAdd"] == ran["QLinearMul"] == 1
    assert not ran["HardSwish"] + ran["HardSigmoid"] + ran["Clip"]
    original, feeds = load(parse(NET)), [{"x": images(8, 1)}]
    before, after = (worst_sqnr_db(original, m, feeds) for m in (whole, model))
    assert after > 28
    assert after > before - 1


def test_slower_pieces_are_not(timer_says, tmp_path: Path) -> None:
    timer_says(0.99)
    model, report = quantized()
    assert report.changes["hardswish-in-pieces"] == 0
    assert "0.99 of the time" in report.skipped[-1].message
    assert sum(node.op_type == "HardSwish" for node in model.graph) == 1


def test_other_machines_are_not_timed(timer_says) -> None:
    timer_says(0.5)
    for target in ("openvino", "tensorrt"):
        _, report = quantized(target=target)
        assert report.changes["hardswish-in-pieces"] == 0


def test_operators_instead_of_q_and_dq(timer_says) -> None:
    timer_says(0.5)
    model, report = quantized(form="qoperator")
    assert report.changes["hardswish-in-pieces"] == 1
    original, feeds = load(parse(NET)), [{"x": images(8, 1)}]
    assert worst_sqnr_db(original, model, feeds) > 28


def test_gate_equals_hardswish_between_and_beyond_its_bends(timer_says) -> None:
    timer_says(0.5)
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,1,1,64] x) => (float[n,1,1,64] y)
        <float[1,1,1,1] w = {1}, float[1,1,1,1] v = {1}>
        { t = Conv(x, w) h = HardSwish(t) y = Conv(h, v) }"""
    x = np.linspace(-8, 8, 64, dtype=np.float32).reshape(1, 1, 1, 64)
    model = quantize_static(load(parse(text)), x, rounding="nearest", placement="everything").model
    assert "HardSwish" not in {node.op_type for node in model.graph}
    want, got = (Session(m).run({"x": x})["y"] for m in (load(parse(text)), model))
    assert np.abs(want - got).max() < 3 * 16 / 255
