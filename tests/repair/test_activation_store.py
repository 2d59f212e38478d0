"""Running piece by piece: the same values as a whole run, and no more kept than allowed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from onnxlite.inputs import input_specs
from onnxlite.model import load
from onnxlite.repair import activation_store
from onnxlite.repair.activation_store import ActivationStore, ExecutionPlan, plan_memory
from onnxlite.runtime import Session, tapped
from onnxlite.samples import Samples
from tests.odd_models import parse

NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,8] x) => (float[n,8] y) <float[8,64] w, float[64,8] v, float[8,8] u>
    { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  d = Add(c, x)  e = Tanh(d)
      f = MatMul(e, u)  g = Add(f, c)  y = MatMul(g, u) }"""
STOPS = ["x", "b", "c", "e", "g"]


@pytest.fixture
def model():
    return load(parse(NET))


@pytest.fixture
def data():
    return np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def plan_of(model) -> ExecutionPlan:
    values = {value.name: value for node in model.graph for value in node.outputs}
    values.update({value.name: value for value in model.graph.inputs})
    return ExecutionPlan(model, [values[name] for name in STOPS])


@pytest.mark.parametrize("keep", [[True] * 5, [False] * 5, [True, False, True, False, False]])
def test_visits_see_what_a_whole_run_computes(model, data, keep):
    feeds = [{"x": data[:10]}, {"x": data[10:15]}]
    whole = [Session(tapped(model, STOPS)).run(feed) | feed for feed in feeds]
    store = ActivationStore(plan_of(model), feeds, keep, threads=1)
    for index, name in enumerate(STOPS):
        for seen, want in zip(store.visit(index), whole, strict=True):
            np.testing.assert_allclose(seen, want[name], atol=1e-5)


def test_every_node_runs_once_per_feed(model, data, monkeypatch):
    ran: Counter[str] = Counter()

    class Counting(Session):
        def __init__(self, piece, **options):
            super().__init__(piece, **options)
            self.nodes = [node.outputs[0].name for node in piece.graph]

        def run(self, feed):
            ran.update(self.nodes)
            return super().run(feed)

    monkeypatch.setattr(activation_store, "Session", Counting)
    store = ActivationStore(plan_of(model), [{"x": data}, {"x": data}], [True] * 5, threads=1)
    for index in range(len(STOPS)):
        list(store.visit(index))
    assert ran == dict.fromkeys("abcdefg", 2)


def test_only_what_is_still_needed_is_kept(model, data):
    store = ActivationStore(plan_of(model), [{"x": data}], [True] * 5, threads=1)
    kept = []
    for index in range(len(STOPS)):
        list(store.visit(index))
        kept.append(sorted(value.name for value in store.kept[0]))
    assert kept == [["x"], ["b", "x"], ["c", "x"], ["c", "e"], ["g"]]


def test_kept_bytes_are_known_beforehand(model):
    plan = plan_of(model)
    sizes = {value: 10 ** (ord(value.name) - ord("a")) for n in model.graph for value in n.outputs}
    assert plan.kept_bytes(sizes | {model.graph.inputs[0]: 7}) == [7, 17, 107, 10100, 1000000]


def test_samples_are_taken_as_memory_allows(model, data):
    specs = input_specs(model)
    many = Samples(np.tile(data, (50, 1)), specs)
    counts = {}
    for cache in (1 << 14, 1 << 16, 1 << 30):
        chosen = plan_memory(many, [plan_of(model), plan_of(model)], cache)
        counts[cache] = len(chosen.feeds)
        assert chosen.complete == (counts[cache] == 250)
        kept = [
            size * len(chosen.feeds)
            for size, keep in zip(
                plan_of(model).kept_bytes(memory_sizes(model)), chosen.keep[0], strict=True
            )
            if keep
        ]
        assert max(kept) <= cache
    assert counts[1 << 14] < counts[1 << 16] < counts[1 << 30] == 250


def test_samples_beyond_a_limit_are_left_out(model, data):
    many = Samples(np.tile(data, (100, 1)), input_specs(model))
    chosen = plan_memory(many, [plan_of(model)], 1 << 30)
    assert sum(len(feed["x"]) for feed in chosen.feeds) == 2048
    assert not chosen.complete


def memory_sizes(model):
    width = {"a": 64, "b": 64}
    sizes = {v: 8 * 4 * width.get(v.name, 8) for n in model.graph for v in n.outputs}
    return sizes | {model.graph.inputs[0]: 8 * 4 * 8}
