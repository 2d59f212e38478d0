"""Every model of onnx's backend test suite that ONNX Runtime runs, simplified and compared.

About 1,900 small models: every operator in every variant, with the suite's own inputs.
`pytest -m slow tests/simplify/test_backend_models.py` runs all of them; without the mark
every eighth runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.loader import load_model_tests

from onnxlite.errors import ExecutionError, ModelError
from onnxlite.inputs import Feed
from onnxlite.model import clone, load
from onnxlite.runtime import Outputs, Session
from onnxlite.simplify import simplify
from onnxlite.simplify.verify import mismatch

_ON_DISK = ("simple", "pytorch-converted", "pytorch-operator")


def cases() -> Iterator[tuple[str, onnx.ModelProto, list[Any]]]:
    """Name, model and inputs of every case."""
    with warnings.catch_warnings():
        # The suite's own reference implementations overflow on purpose.
        warnings.simplefilter("ignore")
        generated = load_model_tests(kind="node")
    for case in generated:
        yield case.name, case.model, [_array(value) for value in case.data_sets[0][0]]
    for kind in _ON_DISK:
        for case in load_model_tests(kind=kind):
            directory = Path(case.model_dir)
            proto = onnx.load(directory / "model.onnx")
            files = sorted(
                (directory / "test_data_set_0").glob("input_*.pb"), key=lambda f: (len(f.name), f)
            )
            yield f"{kind}/{case.name}", proto, [_array(onnx.load_tensor(f)) for f in files]


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _runs(proto: onnx.ModelProto, inputs: list[Any]) -> tuple[ir.Model, Feed, Outputs] | None:
    """The model with its feed and outputs, if we load it and ONNX Runtime runs it."""
    if any(isinstance(value, list) or value is None for value in inputs):
        return None
    try:
        model = load(proto)
        session = Session(model, threads=1)
        feed = dict(zip(session.input_names, inputs, strict=False))
        return model, feed, session.run(feed)
    except (ModelError, ExecutionError):
        return None


def _check(step: int, *, minimum: int) -> None:
    ran, wrong = 0, []
    for index, (name, proto, inputs) in enumerate(cases()):
        if index % step:
            continue
        case = _runs(proto, inputs)
        if case is None:
            continue
        model, feed, expected = case
        ran += 1
        result, report = simplify(clone(model), onnxsim=False)
        found = Session(result, threads=1).run(feed)
        for key, value in expected.items():
            if (text := mismatch(value, found[key])) is not None:
                wrong.append(f"{name}: {key}: {text}; {report.changes}")
        wrong += [f"{name}: {d}" for d in report.skipped if "internal error" in d.message]
    assert not wrong
    assert ran >= minimum


def test_every_eighth_model_stays_right():
    _check(8, minimum=150)


@pytest.mark.slow
def test_all_models_stay_right():
    _check(1, minimum=1200)
