"""Effort: what a result may cost; options that are given win over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxlite import Recipe, quantize_static
from onnxlite.errors import OptionError
from onnxlite.prune import PruneChannels
from onnxlite.quantize import QuantizeStatic, QuantizeWeights
from onnxlite.quantize.accuracy import gptq
from onnxlite.quantize.placement import search
from onnxlite.quantize.static import step
from onnxlite.repair.engine import FitOptions
from tests.odd_models import parse

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,4,8,8] y)
    <float[8,3,3,3] w, float[8] b, float[4,8,1,1] v>
    { t = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(t) y = Conv(r, v) }"""


def images(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def test_given_options_win_over_the_effort() -> None:
    fast = QuantizeStatic(effort="fast")
    assert (fast.rounding, fast.equalize, fast.placement) == ("nearest", False, "remembered")
    assert fast.min_sqnr_db == 0
    given = QuantizeStatic(effort="fast", rounding="compensated", placement="measured")
    assert (given.rounding, given.equalize, given.placement) == ("compensated", False, "measured")
    assert QuantizeStatic(effort="default") == QuantizeStatic()
    assert QuantizeWeights(effort="fast").method == "rtn"
    assert QuantizeWeights(effort="fast", method="gptq").method == "gptq"
    assert PruneChannels(effort="fast", macs=0.5).importance == "energy"
    with pytest.raises(OptionError, match="did you mean effort='fast'"):
        QuantizeStatic(effort="fats")  # type: ignore[arg-type]


def test_a_recipe_keeps_effort_and_options() -> None:
    recipe = Recipe(steps=(QuantizeStatic(effort="fast", rounding="compensated"),))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_fast_fits_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("costs too much")

    for module, name in (
        (step, "round_with_gptq"),
        (step, "equalize"),
        (search, "measured_costs"),
        (search, "race"),
    ):
        monkeypatch.setattr(module, name, never)
    report = quantize_static(parse(TEXT), images(), effort="fast").report
    assert report.changes.layers_quantized == 2
    assert report.resolved_options is None


def test_best_fits_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = gptq.round_layers

    def seen(*args: Any, **options: Any) -> Any:
        rows.extend(a.repair.max_rows for a in args if isinstance(a, FitOptions))
        return real(*args, **options)

    monkeypatch.setattr(gptq, "round_layers", seen)
    for effort in ("default", "best"):
        quantize_static(parse(TEXT), images(), effort=effort, placement="everything")
    assert rows[1] == 4 * rows[0]
