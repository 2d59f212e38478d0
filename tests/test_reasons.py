"""The reason why a step did nothing comes from the code that decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import onnxlite as ol
from tests.odd_models import parse

X = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
NET = """<ir_version: 8, opset_import: ["": 17]>
    net (%s[n,8] x) => (%s[n,8] y) <%s[8,8] w, %s[8,8] v>
    { [one] t = MatMul(x, w) [two] y = MatMul(t, v) }"""
FLOAT, HALF, DOUBLE = (parse(NET % ((kind,) * 4)) for kind in ("float", "float16", "double"))
NO_LAYER = parse(
    """<ir_version: 8, opset_import: ["": 17]>
    net (float[n,8] x) => (float[n,8] y) { y = Tanh(x) }"""
)

Step = Callable[..., Any]


def static(model: Any, **options: Any) -> Any:
    """Nothing is decided by a measurement."""
    return ol.quantize_static(model, {"x": X}, placement="everything", **options)


CASES: dict[str, tuple[Step, Any, dict[str, Any], str]] = {
    "dynamic float16": (ol.quantize_dynamic, HALF, {}, "is FLOAT16"),
    "dynamic double": (ol.quantize_dynamic, DOUBLE, {}, "is DOUBLE"),
    "dynamic excluded": (ol.quantize_dynamic, FLOAT, {"exclude": ["*"]}, "excluded by name (2"),
    "dynamic not included": (
        ol.quantize_dynamic, NO_LAYER, {"include": ["*"]}, "no layer that dynamic"
    ),
    "static double": (static, DOUBLE, {}, "is DOUBLE, not float32"),
    "static excluded": (static, FLOAT, {"exclude": ["*"]}, "excluded by name (2 times)"),
    "static without layers": (static, NO_LAYER, {}, "it has none with weights"),
    "storage of small weights": (
        ol.to_float16, FLOAT, {"mode": "storage"}, "1024 bytes or fewer take less than a Cast"
    ),
    "storage of excluded weights": (
        ol.to_float16, FLOAT, {"mode": "storage", "exclude": ["*"]}, "`exclude` names reads it"
    ),
    "storage without weights": (
        ol.to_float16, NO_LAYER, {"mode": "storage"}, "it has no float32 constants"
    ),
    "float16 of float16": (ol.to_float16, HALF, {}, "it has no float32 values"),
    "weights excluded": (ol.quantize_weights, FLOAT, {"exclude": ["*"]}, "excluded by name (2"),
    "no weights": (ol.quantize_weights, NO_LAYER, {}, "no float weight is left"),
    "zeros excluded": (
        ol.prune_weights, FLOAT, {"sparsity": 0.5, "exclude": ["*"]}, "excluded by name (2 times)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_unchanged_model_has_the_reason_of_what_decided(case: str) -> None:
    step, model, options, reason = CASES[case]
    _, report = step(model, **options)
    assert not report.changed
    assert reason in report.summary
    assert "faster" not in report.summary
