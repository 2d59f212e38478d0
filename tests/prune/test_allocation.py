"""Choosing among groups whose prices are known."""

from __future__ import annotations

import numpy as np
import pytest

from models.chains import plain_chain, residual_chain
from onnxlite.prune.allocation import allocate
from onnxlite.prune.cost_model import CostModel, macs_items, static_items
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


class Exhaustive:
    """The same allocation by trying every group, and every pair of groups, at every step."""

    def __init__(self, curves, counts, cost, target) -> None:
        self.curves, self.counts, self.cost, self.target = curves, counts, cost, target
        self.place = [0] * len(curves)

    def removed(self, group: int, steps: int = 0) -> int:
        return len(self.curves[group].order) - self.counts[group][self.place[group] + steps]

    def damage(self, group: int, steps: int) -> float:
        damage = self.curves[group].damage
        return float(damage[self.removed(group, steps)] - damage[self.removed(group)])

    def total(self, *moves: tuple[int, int]) -> int:
        """The total after some moves, which are undone."""
        for group, steps in moves:
            self.cost.remove(group, self.removed(group, steps))
        total = self.cost.total
        for group, _ in moves:
            self.cost.remove(group, self.removed(group))
        return total

    def move(self, group: int, steps: int) -> None:
        self.place[group] += steps
        self.cost.remove(group, self.removed(group))

    def ahead(self) -> list[tuple[int, int]]:
        return [
            (group, steps)
            for group, counts in enumerate(self.counts)
            for steps in range(1, min(4, len(counts) - 1 - self.place[group]) + 1)
        ]

    def back(self) -> list[int]:
        return [group for group, place in enumerate(self.place) if place]

    def run(self) -> bool:
        while self.cost.total > self.target:
            rates = [
                (max(self.damage(g, s), 1e-9) / (self.cost.total - self.total((g, s))), g, s)
                for g, s in self.ahead()
                if self.cost.total > self.total((g, s))
            ]
            if not rates:
                return False
            self.move(*min(rates)[1:])
        while undo := [
            (self.damage(g, -1), g)
            for g in self.back()
            if self.damage(g, -1) < 0 and self.total((g, -1)) <= self.target
        ]:
            self.move(min(undo)[1], -1)
        for _ in range(24):
            exchanges = [
                (self.damage(taker, steps) + self.damage(giver, -1), giver, taker, steps)
                for giver in self.back()
                for taker, steps in self.ahead()
                if taker != giver
                and self.total((giver, -1), (taker, steps)) <= self.target
                and (steps == 1 or self.total((giver, -1), (taker, steps - 1)) > self.target)
            ]
            if not exchanges or min(exchanges)[0] >= -1e-9:
                break
            _, giver, taker, steps = min(exchanges)
            self.move(giver, -1)
            self.move(taker, steps)
        return True


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("chain", [plain_chain, residual_chain])
def test_it_finds_what_trying_everything_finds(chain, seed) -> None:
    model, channels = mapped(chain(9))
    rng = np.random.default_rng(seed)
    curves = [
        curve_of(group.units, rng.random(len(group.units)) * 10 ** rng.uniform(-2, 0))
        for group in channels.groups
    ]
    counts = [
        allowed_counts(group, block=int(rng.choice([1, 2])), minimum=1)
        if group.pin is None
        else (len(group.units),)
        for group in channels.groups
    ]
    for kind, fraction in (("macs", 0.8), ("macs", 0.4), ("params", 0.6)):
        items = static_items(model, channels, kind, None)
        orders = [curve.order for curve in curves]
        cost, checked = (CostModel(channels, orders, items) for _ in range(2))
        target = fraction * cost.total
        expected = Exhaustive(curves, counts, checked, target).run()
        assert allocate(curves, counts, cost, target) == expected
        assert cost.removed == checked.removed
