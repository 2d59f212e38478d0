"""Whole branches go where the goal is far, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.analysis.lineage import origin_of
from onnxlite.model import load
from onnxlite.prune import prune_channels
from onnxlite.prune.target_search import Selection, select_branches
from onnxlite.repair import repair
from tests.odd_models import parse

#: Two blocks; the second adds hardly anything.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,6,6] x) => (float[n,5] y)
    <float[8,3,3,3] w, float[8] b, float[16,8,3,3] a, float[16] c, float[8,16,3,3] d, float[8] e,
     float[16,8,3,3] i, float[16] j, float[8,16,3,3] k, float[8] l, float[8,5] o>
    { s = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(s)
      t = Conv<pads=[1,1,1,1]>(r, a, c)  u = Relu(t)  v = Conv<pads=[1,1,1,1]>(u, d, e)
      p = Add(r, v)  q = Relu(p)
      f = Conv<pads=[1,1,1,1]>(q, i, j)  g1 = Relu(f)  h = Conv<pads=[1,1,1,1]>(g1, k, l)
      m = Add(q, h)  z = Relu(m)  pool = GlobalAveragePool(z)  flat = Flatten(pool)
      y = MatMul(flat, o) }"""
X = np.random.default_rng(0).standard_normal((256, 3, 6, 6)).astype(np.float32)


def net():
    proto = parse(NET)
    (tensor,) = (t for t in proto.graph.initializer if t.name == "k")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 0.01).tobytes()
    return proto


def pruned(**options):
    result, report = prune_channels(net(), samples=X, macs=0.53, round_to=4, **options)
    return load(result), report


def test_the_branch_that_adds_least_goes() -> None:
    model, report = pruned()

    names = {node.outputs[0].name for node in model.graph}
    assert "f" not in names
    assert "t" in names
    assert report.changes.branches_removed == 1
    assert {row.after for row in report.layers} >= {None}
    assert "the macs is left" in report.summary
    assert origin_of(model, model.graph[0].name).node == model.graph[0].name


def test_none_goes_where_that_is_not_wanted() -> None:
    for options in ({"branches": False}, {"repair": False}, {"exclude": ["i"]}):
        model, _ = pruned(**options)
        assert "f" in {node.outputs[0].name for node in model.graph}, options


def test_the_sum_before_is_fitted_to_the_sum_after() -> None:
    model, _ = pruned(repair="auto")
    _, report = repair(net(), model, X)
    targets = [row.target for row in report.layers]
    assert "m" in targets
    assert "p" not in targets


class FakeSearch:
    """Predicts damages from a table; every set of branches is its own selection."""

    def __init__(self, damages: dict[frozenset[int], float], complete: bool = True) -> None:
        self.damages, self.complete = damages, complete

    def plan(self, branches=frozenset()) -> Selection:
        complete = self.complete or bool(branches)
        return Selection(removed=tuple(sorted(branches)), fraction=0.5, complete=complete)

    select = plan

    def damage(self, selection: Selection) -> float:
        return self.damages[frozenset(selection.removed)]


@pytest.mark.parametrize(
    ("errors", "complete", "expected"),
    [
        ({(): 1.0, (2,): 0.5, (1, 2): 0.45}, True, (2,)),
        ({(): 1.0, (2,): 0.5, (1, 2): 0.1}, True, (1, 2)),
        ({(): 1.0, (2,): 0.95}, True, ()),
        ({(): 1.0, (2,): 2.0, (1, 2): 3.0}, False, (2,)),
    ],
)
def test_a_branch_goes_while_that_is_clearly_better(errors, complete, expected) -> None:
    none, one, two, both = map(frozenset, ((), (1,), (2,), (1, 2)))
    search = FakeSearch({none: 0.1, one: 0.2, two: 0.15, both: 0.2}, complete)
    assert select_branches(search, [1, 2], errors.__getitem__).removed == expected


def test_what_is_far_worse_is_not_tried() -> None:
    none, one = frozenset(), frozenset([1])

    def trial(removed):
        raise AssertionError(removed)

    assert select_branches(FakeSearch({none: 0.1, one: 0.5}), [1], trial).removed == ()
