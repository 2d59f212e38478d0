"""Every step on every odd model: handled, skipped or refused with a clear error.

A step never crashes, never changes the model it was given, never changes what a caller
sees of the interface, and what it returns runs wherever the given model ran.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnxlite import quantize_weights
from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed
from onnxlite.model import load
from onnxlite.prune import prune_weights
from onnxlite.quantize import quantize_static
from onnxlite.runtime import Outputs, run_all
from onnxlite.simplify import simplify
from tests.odd_models import BROKEN, NOT_RUNNABLE, ODD, feeds, odd, parse

Step = Callable[..., onnx.ModelProto]
#: What a step is called with besides the model, and how far its outputs may be off (share
#: of the largest value), or None where the step is meant to change them.
STEPS: dict[str, tuple[Step, float | None]] = {
    "simplify": (lambda model, _data, **o: simplify(model, onnxsim=False, **o), 1e-4),
    "simplify with onnxsim": (
        lambda model, data, **o: simplify(model, samples=data, **o),
        1e-4,
    ),
    "prune weights": (
        lambda model, _data, **o: prune_weights(model, sparsity=0.5, **o),
        None,
    ),
    "prune nothing": (
        lambda model, _data, **o: prune_weights(model, threshold=1e-9, **o),
        0.0,
    ),
    "quantize weights": (
        lambda model, _data, **o: quantize_weights(model, bits=8, first_last_bits="same", **o),
        0.05,
    ),
    "quantize static": (lambda model, data, **o: quantize_static(model, data, **o), 0.05),
}
#: onnxsim runs in a child process of some seconds: only where it can make a difference.
WITH_ONNXSIM = {"If", "Scan", "custom op"}
#: What a step may refuse with an error; all else it handles or declines.
REFUSED = {
    ("simplify with onnxsim", "custom op"): "my.company:Sparkle",
    ("quantize static", "custom op"): "my.company:Sparkle",
    ("quantize static", "unknown op"): "NoSuchOperator",
    ("quantize static", "no outputs"): "At least one output",
}
CASES = [
    (step, name)
    for step in STEPS
    for name in ODD
    if step != "simplify with onnxsim" or name in WITH_ONNXSIM
]


def required_inputs(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [str(value) for value in model.graph.input if value.name not in weights]


def check_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Inputs and outputs are the same; only a dimension of an output may have become known."""
    assert required_inputs(before) == required_inputs(after)
    for old, new in zip(before.graph.output, after.graph.output, strict=True):
        assert (old.name, old.type.tensor_type.elem_type) == (
            new.name,
            new.type.tensor_type.elem_type,
        )
        dims = old.type.tensor_type.shape.dim, new.type.tensor_type.shape.dim
        for had, has in zip(*dims, strict=False):
            assert str(had) in ("", str(has))


def run(model: onnx.ModelProto, data: list[Feed]) -> list[Outputs]:
    return run_all(load(model), data, threads=1)


def off(expected: list[Outputs], got: list[Outputs]) -> float:
    """The largest difference as a share of the output's largest value; shapes must agree."""
    worst = 0.0
    for left, right in zip(expected, got, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            assert left[name].shape == right[name].shape
            assert left[name].dtype == right[name].dtype
            if left[name].dtype == object:
                assert left[name].tolist() == right[name].tolist()
                continue
            a, b = left[name].astype(np.float64), right[name].astype(np.float64)
            scale = max(float(np.abs(a).max(initial=0.0)), 1e-6)
            worst = max(worst, float(np.abs(a - b).max(initial=0.0)) / scale)
    return worst


@pytest.mark.parametrize(("step", "name"), CASES)
def test_odd_model(step, name):
    call, tolerance = STEPS[step]
    model, data = odd(name), feeds(name)
    before = model.SerializeToString(deterministic=True)
    if (step, name) in REFUSED:
        with pytest.raises(OnnxliteError, match=REFUSED[step, name]):
            call(model, data)
        assert model.SerializeToString(deterministic=True) == before
        return
    result, report = call(model, data)
    assert model.SerializeToString(deterministic=True) == before
    assert report.summary
    assert all(d.what and d.code and d.message for d in report.skipped)
    assert isinstance(result, onnx.ModelProto)
    check_interface(model, result)
    if name in NOT_RUNNABLE:
        return
    difference = off(run(model, data), run(result, data))
    if tolerance is not None:
        assert difference <= tolerance
    if not report.changed:
        assert difference == 0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_model(step, name):
    text, error, message = BROKEN[name]
    with pytest.raises(error, match=message):
        STEPS[step][0](parse(text), [{"x": np.zeros(2, np.float32)}])


@pytest.mark.parametrize("step", STEPS)
def test_missing_file(step, tmp_path):
    with pytest.raises(OnnxliteError, match="no model file"):
        STEPS[step][0](tmp_path / "no.onnx", [])
