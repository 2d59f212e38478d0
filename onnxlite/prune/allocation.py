"""Allocation of removals to groups: least damage for a target cost.

Greedy phase: the group of least damage per saving takes the next step, until the target is
reached. A layer's cost depends on its inputs and outputs, so savings change as neighbours
shrink. Then unnecessary steps are undone, and steps of two groups are exchanged while that
lowers the damage. With n groups that have layers in common with few others, every phase takes
O(n log n) steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from onnxlite.prune.cost_model import CostModel
from onnxlite.prune.importance import DamageCurve
from onnxlite.records import Progress, no_progress

#: Number of steps to look ahead: one step may save nothing without the next.
_LOOK_AHEAD = 4
#: Maximum number of exchanges.
_MAX_EXCHANGES = 24
#: Damages below this count as 0.
_NO_DAMAGE = 1e-9


def allocate(
    curves: Sequence[DamageCurve],
    counts: Sequence[Sequence[int]],
    cost: CostModel,
    target: float,
    progress: Progress = no_progress,
) -> bool:
    """Rewrite `cost` in place: remove units until its total is at most `target`.

    Args:
        curves: damage curves of all groups; empty for groups that keep all units.
        counts: for every group the numbers of units it may keep, descending; if the first
            number is less than all, the other units are removed at the start.
        cost: cost of the model, with the curves' orders and no unit removed.
        target: cost to reach.
        progress: called as groups exchange steps.

    Returns:
        True if the target was reached; if not, all removable units are removed.
    """
    state = _Allocation(curves, counts, cost)
    while cost.total > target:
        if not state.advance():
            return False
    state.restore(target)
    for index in range(_MAX_EXCHANGES):
        progress("choose units", index, _MAX_EXCHANGES)
        if not state.exchange(target):
            break
    return True


class _Exchange(NamedTuple):
    """A step back of one group and steps of another, ordered by the change of damage."""

    change: float
    giver: int
    taker: int
    steps: int


class _Allocation:
    """Position of every group in its list of counts."""

    def __init__(
        self,
        curves: Sequence[DamageCurve],
        counts: Sequence[Sequence[int]],
        cost: CostModel,
    ) -> None:
        self._curves, self._counts, self._cost = curves, counts, cost
        self._total = [
            len(curve.order) or options[0] for curve, options in zip(curves, counts, strict=True)
        ]
        self._place = [0] * len(curves)
        for group in range(len(curves)):
            if removed := self._removed(group):
                cost.remove(group, removed)
        # Steps by damage per saving; entries of an older version are outdated.
        self._steps: list[tuple[float, int, int, int]] = []
        self._version = [0] * len(curves)
        self._outdated = set(range(len(curves)))

    def advance(self) -> bool:
        """Move the group of least damage per saving; return False if none saves anything."""
        for group in self._outdated:
            self._version[group] += 1
            if (best := self._best_step(group)) is not None:
                heappush(self._steps, (best[0], group, best[1], self._version[group]))
        self._outdated.clear()
        while self._steps:
            _, group, steps, version = heappop(self._steps)
            if version == self._version[group]:
                self._move(group, steps)
                return True
        return False

    def _best_step(self, group: int) -> tuple[float, int] | None:
        """Find the least damage per saving of a group, and its number of steps."""
        best: tuple[float, int] | None = None
        for steps in self._ahead(group):
            saving = self._cost.saving(group, self._removed(group, steps))
            if saving > 0:
                rate = max(self._damage(group, steps), _NO_DAMAGE) / saving
                if best is None or rate < best[0]:
                    best = (rate, steps)
        return best

    def restore(self, target: float) -> None:
        """Undo steps that later ones made unnecessary, the most damaging first."""
        waiting = [(self._damage(g, -1), g, place) for g, place in enumerate(self._place) if place]
        heapify(waiting)
        while waiting:
            damage, group, place = heappop(waiting)
            if place != self._place[group] or damage >= 0:
                continue
            if self._cost_after(group, -1) > target:
                continue  # true until a neighbour moves, because the total only grows
            self._move(group, -1)
            for near in (group, *self._cost.neighbours(group)):
                if self._place[near]:
                    heappush(waiting, (self._damage(near, -1), near, self._place[near]))

    def exchange(self, target: float) -> bool:
        """Make the exchange that lowers the damage most; return False if there is none."""
        best = self._best_exchange(target)
        if best is None or not best.change < -_NO_DAMAGE:
            return False
        self._move(best.giver, -1)
        self._move(best.taker, best.steps)
        return True

    def _best_exchange(self, target: float) -> _Exchange | None:
        """Find the exchange of least damage that meets the target.

        A taker makes the fewest steps that save enough. Savings of groups without a common
        layer are independent, so givers are matched with such takers in one sweep, from the
        giver that needs the largest saving to the one that needs the smallest.
        """
        givers = sorted(
            ((self._cost_after(g, -1), g) for g, place in enumerate(self._place) if place),
            key=lambda entry: (-entry[0], entry[1]),
        )
        options = sorted(self._options(), key=lambda option: -option[0])
        least = min((damage for _, _, damage, _, _ in options), default=0.0)
        usable: list[tuple[float, int, int, float]] = []
        index, best = 0, None
        for total, giver in givers:
            while index < len(options) and total - options[index][0] <= target:
                _, enough, damage, taker, steps = options[index]
                heappush(usable, (damage, taker, steps, enough))
                index += 1
            relief = -self._damage(giver, -1)
            if best is not None and least - relief > best.change:
                continue
            for found in self._matches(usable, total, target, giver, relief):
                best = found if best is None else min(best, found)
        return best

    def _options(self) -> Iterator[tuple[float, float, float, int, int]]:
        """Yield saving, largest saving with fewer steps, damage, group, number of steps."""
        for taker in range(len(self._counts)):
            before = -math.inf
            for steps in self._ahead(taker):
                saving = self._cost.saving(taker, self._removed(taker, steps))
                if saving > before:
                    yield saving, before, self._damage(taker, steps), taker, steps
                    before = saving

    def _matches(
        self,
        usable: list[tuple[float, int, int, float]],
        total: float,
        target: float,
        giver: int,
        relief: float,
    ) -> Iterator[_Exchange]:
        """Yield the best taker without a common layer, and all that have one."""
        near = self._cost.neighbours(giver)
        aside = []
        while usable:
            damage, taker, steps, fewer = usable[0]
            if total - fewer <= target:
                heappop(usable)  # fewer steps suffice for this and all later givers
            elif taker == giver or taker in near:
                aside.append(heappop(usable))
            else:
                yield _Exchange(damage - relief, giver, taker, steps)
                break
        for entry in aside:
            heappush(usable, entry)
        back = self._removed(giver, -1)
        for taker in near:
            for steps in self._ahead(taker):
                removed = self._removed(taker, steps)
                if total - self._cost.saving_after(giver, back, taker, removed) <= target:
                    yield _Exchange(self._damage(taker, steps) - relief, giver, taker, steps)
                    break

    def _ahead(self, group: int) -> range:
        left = len(self._counts[group]) - 1 - self._place[group]
        return range(1, min(_LOOK_AHEAD, left) + 1)

    def _removed(self, group: int, steps: int = 0) -> int:
        """Number of removed units of a group after some more steps."""
        return self._total[group] - self._counts[group][self._place[group] + steps]

    def _damage(self, group: int, steps: int) -> float:
        """Damage added by some more steps of a group."""
        damage = self._curves[group].damage
        return float(damage[self._removed(group, steps)] - damage[self._removed(group)])

    def _cost_after(self, group: int, steps: int) -> float:
        """Total cost after some more steps of a group."""
        return self._cost.total - self._cost.saving(group, self._removed(group, steps))

    def _move(self, group: int, steps: int) -> None:
        self._place[group] += steps
        self._cost.remove(group, self._removed(group))
        self._outdated.update((group, *self._cost.neighbours(group)))
