"""Cache keys: what a result depends on changes its key, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxlite
from onnxlite.cache import code_digest
from onnxlite.inputs import InputSpec
from onnxlite.recipe import Simplify, ToFloat16
from onnxlite.samples import Samples
from onnxlite.search import trial_cache
from onnxlite.search.trial_cache import latency_key, quality_key, samples_digest, step_key

INPUTS = (InputSpec("x", "float32", ("n", 2)),)


def rows(count):
    return np.arange(count, dtype=np.float32)[:, None].repeat(2, axis=1)


def test_the_digest_of_samples_depends_on_every_value():
    one, two = rows(10), rows(10)
    assert samples_digest(Samples(one, INPUTS)) == samples_digest(Samples(two, INPUTS))
    two[9, 1] += 1
    assert samples_digest(Samples(one, INPUTS)) != samples_digest(Samples(two, INPUTS))
    labelled = samples_digest(Samples(one, INPUTS), np.zeros(10))
    assert samples_digest(Samples(one, INPUTS)) != labelled


def test_a_step_depends_on_model_options_and_samples():
    keys = [
        step_key("m", Simplify(), "s"),
        step_key("n", Simplify(), "s"),
        step_key("m", Simplify(onnxsim=False), "s"),
        step_key("m", ToFloat16(), "s"),
        step_key("m", Simplify(), "t"),
    ]
    assert len({key.name for key in keys}) == len(keys)
    assert step_key("m", Simplify(), "s").name == keys[0].name


def changed(monkeypatch, module):
    """Let a module of the package look edited."""
    read = Path.read_bytes
    file = Path(onnxlite.__file__).parent / module
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + (b"# edited" if path == file else b"")
    )
    code_digest.cache_clear()


@pytest.fixture
def fresh_digests():
    """Forget the digests of edited modules."""
    yield
    code_digest.cache_clear()


@pytest.mark.usefixtures("fresh_digests")
@pytest.mark.parametrize(
    ("module", "depends"),
    [
        ("search/estimate.py", True),
        ("task_metrics/classes.py", True),
        ("search/strategy.py", False),
    ],
)
def test_qualities_depend_on_the_code_that_computes_them(monkeypatch, module, depends):
    before = quality_key("m", "o", "accuracy", "s").name
    changed(monkeypatch, module)
    assert (quality_key("m", "o", "accuracy", "s").name != before) is depends


@pytest.mark.usefixtures("fresh_digests")
@pytest.mark.parametrize(
    ("module", "depends"), [("timing/interleaved.py", True), ("search/estimate.py", False)]
)
def test_latencies_depend_on_the_code_of_the_timer(monkeypatch, module, depends):
    before = latency_key("m", "o", "s", 2.0).name
    changed(monkeypatch, module)
    assert (latency_key("m", "o", "s", 2.0).name != before) is depends


def test_latencies_depend_on_time_and_machine(monkeypatch):
    key = latency_key("m", "o", "s", 2.0)
    assert key.name != latency_key("m", "o", "s", 10.0).name
    monkeypatch.setattr(trial_cache, "machine", lambda: "another one")
    assert key.name != latency_key("m", "o", "s", 2.0).name
