"""How many units each group loses: as little damage as possible for what is to be saved.

Groups compete: again and again the one goes on that saves most for its damage. A layer's
price depends on both of its sides, so savings are counted anew as neighbours shrink.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxlite.prune.cost_model import CostModel
from onnxlite.prune.importance import DamageCurve
from onnxlite.records import Progress, no_progress

#: How many steps ahead a group is judged by: a step may save nothing until the next is made.
_AHEAD = 4
#: Exchanges after that, at most: each tries all pairs of groups.
_EXCHANGES = 24
#: Damages below this are none.
_NOTHING = 1e-9


def allocate(
    curves: Sequence[DamageCurve],
    counts: Sequence[Sequence[int]],
    price: CostModel,
    target: float,
    progress: Progress = no_progress,
) -> bool:
    """Remove units in `price` until its total is at most `target`.

    Args:
        curves: of every group; empty for groups that stay.
        counts: of every group the numbers of units it may keep, descending; where the first
            is not all of them, so many go from the start.
        price: of the model, on the curves' orders; nothing is removed in it yet.
        target: the price to reach.
        progress: called as groups exchange steps.

    Returns:
        Whether the target was reached; if not, all has gone that may.
    """
    state = _Allocation(curves, counts, price)
    while price.total > target:
        if not state.go_on():
            return False
    while state.give_back(target):
        pass
    for index in range(_EXCHANGES):
        progress("choose units", index, _EXCHANGES)
        if not state.exchange(target):
            break
    return True


class _Allocation:
    """How far every group has gone, in steps of its counts."""

    def __init__(
        self,
        curves: Sequence[DamageCurve],
        counts: Sequence[Sequence[int]],
        price: CostModel,
    ) -> None:
        self._curves, self._counts, self._price = curves, counts, price
        self._total = [
            len(curve.order) or options[0] for curve, options in zip(curves, counts, strict=True)
        ]
        self._place = [0] * len(curves)
        for group, gone in enumerate(map(self._gone, range(len(curves)))):
            if gone:
                price.remove(group, gone)

    def go_on(self) -> bool:
        """Go on with the group that saves most for its damage; False if none saves anything."""
        best: tuple[float, int, int] | None = None
        for group in range(len(self._counts)):
            for step in self._ahead(group):
                saving = self._price.saving(group, self._gone(group, step))
                rate = max(self._harm(group, step), _NOTHING) / saving if saving > 0 else None
                if rate is not None and (best is None or rate < best[0]):
                    best = (rate, group, step)
        if best is None:
            return False
        self._move(best[1], best[2])
        return True

    def give_back(self, target: float) -> bool:
        """Undo a step that the last one made unnecessary, that of most damage."""
        best: tuple[float, int] | None = None
        for group, place in enumerate(self._place):
            if not place:
                continue
            after = self._price.total - self._price.saving(group, self._gone(group, -1))
            relief = -self._harm(group, -1)
            if after <= target and relief > 0 and (best is None or relief > best[0]):
                best = (relief, group)
        if best is None:
            return False
        self._move(best[1], -1)
        return True

    def exchange(self, target: float) -> bool:
        """Give one group a step back and let another go on, where that lowers the damage most."""
        best: tuple[float, int, int, int] | None = None
        for giver, place in enumerate(self._place):
            if not place:
                continue
            relief = -self._harm(giver, -1)
            self._move(giver, -1)
            for taker in range(len(self._counts)):
                for step in self._ahead(taker) if taker != giver else ():
                    gone = self._gone(taker, step)
                    if self._price.total - self._price.saving(taker, gone) <= target:
                        change = self._harm(taker, step) - relief
                        if change < -_NOTHING and (best is None or change < best[0]):
                            best = (change, giver, taker, step)
                        break
            self._move(giver, 1)
        if best is None:
            return False
        self._move(best[1], -1)
        self._move(best[2], best[3])
        return True

    def _ahead(self, group: int) -> Iterator[int]:
        return iter(range(1, min(_AHEAD, len(self._counts[group]) - 1 - self._place[group]) + 1))

    def _gone(self, group: int, step: int = 0) -> int:
        return self._total[group] - self._counts[group][self._place[group] + step]

    def _harm(self, group: int, step: int) -> float:
        damage = self._curves[group].damage
        return float(damage[self._gone(group, step)] - damage[self._gone(group)])

    def _move(self, group: int, step: int) -> None:
        self._place[group] += step
        self._price.remove(group, self._gone(group))
