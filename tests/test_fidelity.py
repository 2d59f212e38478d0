"""SQNR of arrays and of models' outputs."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import onnxlite
from onnxlite.errors import VerificationError
from onnxlite.fidelity import (
    Reference,
    SquaredError,
    array_sqnr_db,
    noise_ratio,
    sqnr_db,
    worst_sqnr_db,
)
from onnxlite.model import load
from tests.odd_models import parse

FEEDS = [{"x": np.array([[3.0, 4.0]], np.float32)}, {"x": np.array([[0.0, 5.0]], np.float32)}]


def test_models_without_float_outputs_gain_nothing() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n,8] x) => (int64[n,1] y) <float[8,8] w>
        { t = MatMul(x, w) y = ArgMax<axis=1>(t) }"""
    x = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    _, report = onnxlite.quantize_static(parse(text), x, placement="everything")
    assert report.changed


def test_sqnr_is_ten_times_the_logarithm_of_the_ratio() -> None:
    assert sqnr_db(100.0, 1.0) == pytest.approx(20.0)
    assert sqnr_db(1.0, 0.0) == math.inf
    assert sqnr_db(1.0, math.nan) == sqnr_db(1.0, math.inf) == -math.inf
    assert noise_ratio(20.0) == pytest.approx(0.01)
    assert noise_ratio(-math.inf) == math.inf
    assert noise_ratio(math.inf) == 0


def test_arrays_that_belong_together_share_their_sums() -> None:
    one, two = np.array([3.0, 4.0]), np.array([0.0, 5.0])
    assert array_sqnr_db((one, one + 0.5), (two, two)) == pytest.approx(20.0)
    assert array_sqnr_db((one, one)) == math.inf


def test_values_that_the_reference_has_not_do_not_count() -> None:
    error = SquaredError()
    error.add(np.array([3.0, np.nan, np.inf]), np.array([3.0, 1.0, np.nan]))
    assert (error.signal, error.noise, error.values, error.broken) == (9.0, 0.0, 1, 0)
    error.add(np.array([3.0, 4.0]), np.array([np.inf, 4.0]))
    assert (error.signal, error.values, error.broken) == (25.0, 3, 1)
    assert error.sqnr_db == -math.inf


def test_sums_are_taken_in_float64() -> None:
    large = np.full(4, 1e30, np.float32)
    assert array_sqnr_db((large, large * np.float32(1.001))) == pytest.approx(60, abs=0.1)
    half = np.full(4, 60000, np.float16)
    assert math.isfinite(array_sqnr_db((half, np.full(4, 59000, np.float16))))


def test_the_worst_output_decides() -> None:
    def reference(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"a": feed["x"], "b": feed["x"], "n": feed["x"].astype(np.int64)}

    def candidate(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"a": feed["x"] * 1.01, "b": feed["x"] * 1.1, "n": feed["x"].astype(np.int64) + 9}

    errors = Reference(reference, FEEDS).errors(candidate)
    assert errors.outputs.keys() == {"a", "b"}
    assert errors.worst_db == pytest.approx(20.0, abs=1e-4)
    assert errors.noise_ratio == pytest.approx((0.01**2 + 0.1**2) / 2, rel=1e-4)


def test_outputs_are_matched_by_position_where_names_differ() -> None:
    assert worst_sqnr_db(lambda feed: feed, lambda feed: {"y": feed["x"]}, FEEDS) == math.inf
    with pytest.raises(VerificationError, match=r"outputs are \['x'\] in the reference"):
        worst_sqnr_db(lambda feed: feed, lambda feed: {"y": 0, "z": 0}, FEEDS)


def test_another_shape_is_another_function() -> None:
    with pytest.raises(VerificationError, match=r"output 'x' is \[1\] in the candidate"):
        worst_sqnr_db(lambda feed: feed, lambda feed: {"x": feed["x"][:, 0]}, FEEDS)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_new_values_that_are_not_finite_are_refused_by_name() -> None:
    errors = Reference(lambda f: f, FEEDS).errors(lambda f: {"x": f["x"] / f["x"][:, :1]})
    assert errors.worst_db == -math.inf
    with pytest.raises(VerificationError, match=r"'x' of the trial has 2 NaN .* of 4 .*: stop"):
        errors.check_finite("the trial", "stop")


def test_models_are_run_with_the_width_that_they_take() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (TYPE[n,2] x) => (TYPE[n,2] y) { y = Neg(x) }"""
    exact, half = (load(parse(text.replace("TYPE", name))) for name in ("float", "float16"))
    assert worst_sqnr_db(exact, half, FEEDS) == math.inf


def test_decibels_are_computed_in_one_place() -> None:
    """Besides it, plots and texts take logarithms of sizes."""
    root = Path(onnxlite.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "log10"
    }
    pending = {"quantize/float16/verify.py", "quantize/float16/dtype_limits.py"}
    assert {user for user in users if not user.startswith("report/")} - pending == {
        "fidelity/decibels.py"
    }
