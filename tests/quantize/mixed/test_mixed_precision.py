"""A wanted SQNR is reached by keeping few layers float, or at 16 bits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import data
from onnxlite.errors import OptionError
from onnxlite.evaluate import compare
from onnxlite.quantize import quantize_static
from onnxlite.quantize.core.options import QuantizeStaticReport
from onnxlite.quantize.mixed.mixed_precision import (
    _fewest,
    _Limits,
    _Trial,
    noise_fractions,
)
from onnxlite.quantize.mixed.sensitivity import LayerNoise
from onnxlite.recipe import QuantizeStatic, Recipe, run
from tests.odd_models import parse

#: Layers of one kind; `spread` makes one channel 300 times larger, `gather` undoes it.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4,8,8] x) => (float[n,4,8,8] y)
    <float[4,4,3,3] w, float[4,4,3,3] u, float[4,1,1,1] s, float[4,4,3,3] v, float[4,4,3,3] z>
    { a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, u)
      d = Conv<group=4>(c, s) e = Conv<pads=[1,1,1,1]>(d, v) f = Relu(e)
      y = Conv<pads=[1,1,1,1]>(f, z) }"""
NAMES = ("first", "relu", "second", "spread", "gather", "relu2", "last")
NOTHING = QuantizeStaticReport(changed=True, summary="")
SCALE = np.array([300, 1, 1, 1], np.float32).reshape(4, 1, 1, 1)


def uneven() -> tuple[onnx.ModelProto, np.ndarray]:
    proto = parse(NET)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        new = {"s": SCALE, "v": array / SCALE.reshape(1, 4, 1, 1)}.get(tensor.name, array)
        tensor.CopyFrom(onnx.numpy_helper.from_array(new.astype(np.float32), tensor.name))
    for node, name in zip(proto.graph.node, NAMES, strict=True):
        node.name = name
    images = np.random.default_rng(0).standard_normal((64, 4, 8, 8)).astype(np.float32)
    return proto, images


def quantized(
    min_sqnr_db: float | None, **options: object
) -> tuple[onnx.ModelProto, QuantizeStaticReport]:
    proto, images = uneven()
    before = proto.SerializeToString()
    result, report = quantize_static(
        proto,
        images,
        min_sqnr_db=min_sqnr_db,
        rounding="nearest",
        placement="everything",
        threads=1,
        **options,
    )
    assert proto.SerializeToString() == before
    return result, report


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXLITE_CACHE", str(tmp_path))


def test_only_what_breaks_it_stays_float() -> None:
    proto, _ = uneven()
    fresh = np.random.default_rng(9).standard_normal((32, 4, 8, 8)).astype(np.float32)
    baseline, _ = quantized(0)
    before = compare(proto, baseline, samples=fresh).sqnr_db
    result, report = quantized(before + 10)
    after = compare(proto, result, samples=fresh).sqnr_db
    assert after > before + 9
    kept = [row for row in report.skipped if "for the SQNR" in row.message]
    assert 1 <= len(kept) <= 2
    assert {row.node for row in kept} <= {"spread", "gather"}
    assert report.changes.layers_kept_for_sqnr == len(kept)
    assert len(report.layers) == 5 - len(kept)
    assert not [row for row in report.skipped if row.code == "excluded-by-name"]
    assert f"{len(kept)} layers kept float" in report.summary


def test_where_it_is_reached_already_nothing_is_kept() -> None:
    _, report = quantized(-10.0)
    assert report.changes.layers_kept_for_sqnr == 0
    assert len(report.layers) == 5
    assert "held out" in report.summary
    assert not [row for row in report.skipped if "SQNR" in row.message]


def test_a_poor_result_is_improved_unless_that_is_unwanted() -> None:
    proto, _ = uneven()
    fresh = np.random.default_rng(9).standard_normal((32, 4, 8, 8)).astype(np.float32)
    (poor, everything), (better, report) = quantized(0), quantized(None)
    assert everything.sqnr_db < 10
    assert len(everything.layers) == 5
    assert report.sqnr_db > everything.sqnr_db + 9
    assert 1 <= report.changes.layers_kept_for_sqnr <= 2
    assert f"({everything.sqnr_db:.1f} dB without)" in report.summary
    before, after = (compare(proto, made, samples=fresh).sqnr_db for made in (poor, better))
    assert after > before + 9


def test_what_cannot_be_reached_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result, report = quantized(150.0)
    assert "min_sqnr_db=150 was not reached" in report.summary
    assert "not reached" in caplog.text
    assert any(row.what == "min-sqnr" for row in report.skipped)
    assert len(report.layers) >= 3
    onnx.checker.check_model(result)


@pytest.mark.parametrize(("gains", "kept"), [([0.4, 0.9], 0), ([0.4, 1.2], 4)])
def test_what_is_not_enough_must_be_worth_its_time(gains: list[float], kept: int) -> None:
    """Of eight layers at most four may stay float, and neither two nor four reach 40 dB."""
    first = _Trial(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), NOTHING, 30.0)
    waiting = iter(gains)

    def tried(_: Sequence[str]) -> _Trial:
        return _Trial(first.model, NOTHING, 30.0 + next(waiting))

    names = [f"layer{index}" for index in range(8)]
    noise = dict(zip(names, (0.5, 0.42, 0.03, 0.02, 0.01, 0.01, 0.005, 0.005), strict=True))
    chosen, best = _fewest(names, noise, first, _Limits(40.0), tried)
    assert len(chosen) == kept
    assert best.sqnr_db == pytest.approx(30.0 + gains[1] if kept else 30.0)


def test_sixteen_bits_where_the_target_has_them() -> None:
    proto, images = uneven()
    baseline, _ = quantized(0, target="generic")
    before = compare(proto, baseline, samples=images).sqnr_db
    result, report = quantized(before + 6, target="generic")
    assert compare(proto, result, samples=images).sqnr_db > before + 5
    assert len(report.layers) == 5
    assert "16 bits" in report.summary
    assert any("gets 16-bit activations" in row.message for row in report.skipped)


def test_a_name_may_hold_the_characters_of_patterns() -> None:
    proto, images = uneven()
    for node in proto.graph.node:
        node.name = f"net[{node.name}]*"
    report = quantize_static(
        proto,
        images,
        min_sqnr_db=30.0,
        rounding="nearest",
        placement="everything",
        threads=1,
    ).report
    assert report.changes.layers_kept_for_sqnr >= 1
    assert len(report.layers) >= 3


def test_excluded_layers_are_no_candidates() -> None:
    _, report = quantized(20.0, exclude=["last"])
    assert not any(row.node == "last" and row.code == "kept-for-sqnr" for row in report.skipped)
    assert any(row.code == "excluded-by-name" for row in report.skipped)


def test_no_number_of_decibels() -> None:
    with pytest.raises(OptionError, match="min_sqnr_db"):
        quantized(float("nan"))


def test_recipe_passes_it_on() -> None:
    proto, images = uneven()
    step = QuantizeStatic(min_sqnr_db=20.0, rounding="nearest", placement="everything")
    outcome = run(proto, Recipe((step,)), samples=images, benchmark=False)
    assert outcome.report.steps[0].hold_out is not None
    assert Recipe((step,)).to_toml().count("min_sqnr_db = 20.0") == 1


def test_noise_fractions_are_never_negative() -> None:
    alone, without, fraction = (np.array(x) for x in ([1.0, 3.0], [5.0, 1.0], [-0.25, 0.75]))
    noise = LayerNoise("y", alone, without, 4.0, fraction, 8)
    np.testing.assert_allclose(noise_fractions(noise), [(2 * 0.25 - 0.25) / 3, 0.75])
    assert noise_fractions(LayerNoise("y", alone, without, 4.0, fraction - 1, 8)).min() == 0


@pytest.mark.slow
def test_residual_net_reaches_more(residual_path: Path) -> None:
    images = data.calibration_images(192)
    options = {"rounding": "nearest", "placement": "everything"}
    baseline = quantize_static(residual_path, images, **options).model
    fresh = data.test_set()[0][:512]
    before = compare(residual_path, baseline, samples=fresh).sqnr_db
    result = quantize_static(residual_path, images, min_sqnr_db=before + 3, **options).model
    assert compare(residual_path, result, samples=fresh).sqnr_db > before + 1.5
