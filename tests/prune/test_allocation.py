"""Choosing among groups whose prices are known."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlite.prune.allocation import allocate
from onnxlite.prune.cost_model import CostModel, macs_items
from onnxlite.prune.eligibility import allowed_counts
from onnxlite.prune.importance import DamageCurve, curve_of
from tests.odd_models import parse
from tests.topologies.oracle import mapped

#: Two hidden layers of the same size that do not touch each other.
NET = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,4] y)
    <float[4,16] a, float[16,4] b, float[4,16] c, float[16,4] d>
    { h = MatMul(x, a) r = Relu(h) m = MatMul(r, b) i = MatMul(m, c) s = Relu(i)
      y = MatMul(s, d) }"""


def state(
    scores: dict[int, np.ndarray],
) -> tuple[list[DamageCurve], list[tuple[int, ...]], CostModel]:
    """Curves of the two hidden layers (groups 0 and 2), in steps of four units."""
    model, channels = mapped(parse(NET))
    curves = [
        curve_of(group.units, scores[index])
        if index in scores
        else DamageCurve(group.units[:0], ZERO)
        for index, group in enumerate(channels.groups)
    ]
    counts = [
        allowed_counts(group, block=4, minimum=1) if len(curve.order) else (len(group.units),)
        for group, curve in zip(channels.groups, curves, strict=True)
    ]
    return curves, counts, CostModel(channels, [c.order for c in curves], macs_items(model))


ZERO = np.zeros(1)


def test_the_cheaper_group_goes_first() -> None:
    curves, counts, ledger = state({0: np.full(16, 1.0), 2: np.full(16, 0.1)})
    assert allocate(curves, counts, ledger, 0.75 * ledger.total)
    assert ledger.removed[0] == 0
    assert ledger.removed[2] == 8


def test_dead_units_go_before_all_others() -> None:
    scores = np.full(16, 1.0)
    scores[[3, 5, 7, 9]] = 0.0
    curves, counts, ledger = state({0: scores, 2: np.full(16, 0.01)})
    assert allocate(curves, counts, ledger, 0.875 * ledger.total)
    assert ledger.removed[0] == 4
    assert sorted(curves[0].order[:4] - curves[0].order.min()) == [3, 5, 7, 9]


def test_unreachable_target_takes_all_that_may_go() -> None:
    curves, counts, ledger = state({0: np.full(16, 1.0)})
    assert not allocate(curves, counts, ledger, 0.1 * ledger.total)
    assert ledger.removed[0] == 12


def test_the_total_never_exceeds_the_target() -> None:
    rng = np.random.default_rng(0)
    for share in (0.9, 0.6, 0.4):
        curves, counts, ledger = state({0: rng.random(16), 2: rng.random(16)})
        whole = ledger.total
        assert allocate(curves, counts, ledger, share * whole)
        assert (share - 0.25) * whole < ledger.total <= share * whole


@pytest.mark.parametrize(
    ("total", "width", "block", "minimum", "expected"),
    [
        (24, 1, 16, 1, (24, 16)),
        (96, 1, 16, 1, (96, 80, 64, 48, 32, 16)),
        (16, 1, 16, 1, (16, 8, 4)),
        (4, 16, 16, 1, (4, 3, 2, 1)),
        (12, 1, 16, 6, (12, 8)),
        (3, 1, 16, 8, (3,)),
        (5, 1, 1, 2, (5, 4, 3, 2)),
    ],
)
def test_allowed_counts(total, width, block, minimum, expected) -> None:
    group = type("Group", (), {"units": np.arange(total), "width": width})()
    assert allowed_counts(group, block=block, minimum=minimum) == expected
