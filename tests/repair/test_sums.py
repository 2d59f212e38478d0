"""A layer in front of a sum, and one in front of an activation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxlite.model import load
from onnxlite.repair import Repair
from onnxlite.repair.engine import FitOptions
from onnxlite.repair.fit import fit_layer
from onnxlite.repair.regression import NO_CLIP, LayerState, RegressionRows
from onnxlite.repair.step import repair_ir
from onnxlite.runtime import Session
from tests.odd_models import parse

SUM = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,6] x) => (float[n,6] y)
    <float[6,6] w, float[6] b, float[6,6] v, float[6] c>
    { s = Gemm(x, w, b) t = Gemm(x, v, c) q = %s y = Relu(q) }"""


def halve(value: ir.Value) -> None:
    value.const_value = ir.tensor(value.const_value.numpy() * 0.5, name=value.name)


@pytest.mark.parametrize("order", ["Add(s, t)", "Add(t, s)", "Sum(s, t)", "Sum(t, s)"])
def test_the_last_branch_makes_up_for_the_other(order: str) -> None:
    proto = parse(SUM % order)
    reference, model = load(proto), load(proto)
    halve(model.graph.initializers["w"])
    samples = np.random.default_rng(0).standard_normal((512, 6)).astype(np.float32)
    before = Session(load(proto)).run({"x": samples})["y"]
    options = FitOptions(repair=Repair(include=("v",)))
    repaired, report = repair_ir(reference, model, samples, options)
    (row,) = report.layers
    assert row.target == "q"
    assert row.error_before > 0.01
    assert row.error < 1e-4
    after = Session(repaired).run({"x": samples})["y"]
    np.testing.assert_allclose(after, before, atol=1e-2 * np.abs(before).max())


def test_a_branch_before_an_unrepaired_one_keeps_its_own_target() -> None:
    """The side that depends on a later layer is repaired to the sum itself, not both."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,6] x) => (float[n,6] y)
        <float[6,6] w, float[6] b, float[6,6] v, float[6] c>
        { s = Gemm(x, w, b) t = Gemm(x, v, c) y = Add(s, t) }"""
    reference, model = load(parse(text)), load(parse(text))
    for name in ("w", "v"):
        halve(model.graph.initializers[name])
    samples = np.random.default_rng(0).standard_normal((512, 6)).astype(np.float32)
    _, report = repair_ir(reference, model, samples)
    assert [row.target for row in report.layers] == ["s", "y"]


def rows(passes: int, clip: tuple[float, float], addend: float = 0.0) -> float:
    """The error behind `clip` of a layer that has lost half of its inputs."""
    rng = np.random.default_rng(3)
    full = rng.standard_normal((6000, 1, 8)).astype(np.float32)
    weight = rng.standard_normal((1, 8, 5))
    shift = np.full((6000, 1, 5), addend, np.float32)
    y = np.einsum("ngk,gkm->ngm", full, weight).astype(np.float32) - 0.5 - shift
    state = LayerState(
        weight=weight[:, :4].copy(),
        bias=np.zeros((1, 5)),
        method="full",
        clip=clip,
        passes=passes,
    )
    data = RegressionRows(state)
    data.add(full[:, :, :4], y, shift, held_out=np.arange(6000) % 8 == 7)
    solved = fit_layer(data, 1e-3)
    assert not isinstance(solved, str)
    return solved.error


@pytest.mark.parametrize("clip", [(0.0, np.inf), (0.0, 1.5), (-np.inf, 0.0)])
@pytest.mark.parametrize("addend", [0.0, 0.7])
def test_what_an_activation_cuts_off_need_not_be_met(
    clip: tuple[float, float], addend: float
) -> None:
    plain, heeding = rows(0, clip, addend), rows(1, clip, addend)
    assert heeding < 0.99 * plain
    assert rows(3, clip, addend) <= heeding


def test_without_an_activation_there_is_nothing_to_heed() -> None:
    assert rows(0, NO_CLIP) == rows(3, NO_CLIP)
