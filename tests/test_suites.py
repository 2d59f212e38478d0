"""Suites over many models: what they find, and a part of each that runs everywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

import onnxlite as ol
from benchmarks import differential, interruption, mutation
from benchmarks._children import Lost, each
from benchmarks._suite_steps import EXACT, SUITE_STEPS, SuiteStep
from onnxlite.errors import UnsupportedError
from onnxlite.recipe import STEPS
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8] x) => (float[n,4] y) <float[8,4] w> { y = MatMul(x, w) }"""
X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def work(task: str, skip: int) -> Iterator[str]:
    """Three items, in the middle of which a process may die, hang, or fail."""
    for item in range(skip, 3):
        if item == 1 and task == "dies":
            os._exit(7)
        if item == 1 and task == "hangs":
            time.sleep(60)
        if item == 1 and task == "fails":
            raise ValueError("a fault of the suite")
        yield f"{task} {item}"


def test_children_that_die_or_hang_lose_one_item():
    tasks = ["works", "dies", "hangs", "fails"]
    found = {(t, i): r for t, i, r in each(work, tasks, children=2, time_limit_s=5)}
    lost = {key: result for key, result in found.items() if isinstance(result, Lost)}
    assert set(found) == {(task, item) for task in range(4) for item in range(3)}
    assert set(lost) == {(1, 1), (2, 1), (3, 1)}
    assert "exit code 7" in lost[1, 1].reason
    assert "no result within" in lost[2, 1].reason
    assert "a fault of the suite" in lost[3, 1].reason
    assert all(found[key] == f"{tasks[key[0]]} {key[1]}" for key in found.keys() - lost.keys())


def made(text: str, **report: object):
    """A step that returns the model of a text."""

    def call(_model, _samples):
        values = {"changed": True, "summary": "done", **report}
        return ol.Result(parse(text), ol.StepReport(**values))

    return call


def crash(_model, _samples):
    raise ZeroDivisionError("by zero")


def decline(_model, _samples):
    raise UnsupportedError("not this one")


def change(model, _samples):
    model.doc_string = "changed"
    return made(NET)(model, _samples)


@pytest.mark.parametrize(
    ("call", "floor_db", "kind", "reason"),
    [
        (made(NET), EXACT, "right", ""),
        (made(NET), 20.0, "right", ""),
        (made(NET, changed=False, summary="nothing to do"), EXACT, "declined", "nothing to do"),
        (made(NET.replace("MatMul(x, w)", "MatMul(x, v) v = Neg(w)")), EXACT, "wrong", "refuses"),
        (made(NET.replace("y = M", "t = M").replace("w) }", "w) y = Neg(t) }")), EXACT, "wrong",
         "relative difference"),
        (made(NET.replace("y = M", "t = M").replace("w) }", "w) y = Neg(t) }")), 10.0, "wrong",
         "dB"),
        (made(NET.replace("y = M", "t = M").replace("w) }", "w) y = Neg(t) }")), None, "right", ""),
        (made(NET.replace("[n,8]", "[2,8]")), EXACT, "wrong", "input 'x' is"),
        (made(NET.replace("y", "z")), EXACT, "wrong", "outputs are"),
        (made(NET.replace("[n,4] y", "[n,5] y")), EXACT, "wrong", "output 'y' is"),
        (crash, EXACT, "crash", "ZeroDivisionError"),
        (decline, EXACT, "declined", "UnsupportedError: not this one"),
        (change, EXACT, "wrong", "changed its argument"),
    ],
)  # fmt: skip
def test_the_differential_suite_judges(call, floor_db, kind, reason):
    proto = parse(NET)
    expected = differential._run(proto, [{"x": X}])
    found = differential.judged(SuiteStep(call, floor_db), proto, [{"x": X}], expected)
    assert found.kind == kind, found
    assert reason in found.reason


def test_reasons_are_counted_without_names_and_numbers():
    rows = [
        differential.Row("m", "s", differential.Found("declined", f"node 'n{i}' has {i} [1, {i}]"))
        for i in range(3)
    ]
    assert list(differential.decline_counts(rows).items()) == [(("s", "node '...' has N (...)"), 3)]
    assert not differential.faults(rows)


def test_every_public_step_is_in_the_suites():
    names = {name.split()[0] for name in SUITE_STEPS}
    steps = {step.replace("-", "_") for step in STEPS}
    assert names == steps


def test_a_part_of_the_differential_suite():
    rows = list(differential.findings(differential.chosen_tasks(every=250)))
    assert differential.faults(rows) == []
    assert len(rows) > 5 * len(SUITE_STEPS)


def test_a_part_of_the_mutations():
    rows = list(mutation.findings(range(300), tuple(SUITE_STEPS)))
    assert mutation.faults(rows) == []
    assert len(rows) == 300


def test_a_mutation_is_made_again_by_its_number(tmp_path):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        made = [mutation.mutant(seed, folder, tmp_path / "outside") for seed in (0, 5)]
        contents.append([m.path.read_bytes() for m in made])
    assert contents[0] == contents[1]


def test_some_killed_processes():
    rows = list(interruption.findings(4))
    assert [row.fault for row in rows] == [""] * 4
