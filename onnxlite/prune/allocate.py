"""How many units each group loses: as little damage as possible for what is to be saved.

Groups compete: again and again the one goes on that saves most for its damage. A layer's
price depends on both of its sides, so savings are counted anew as neighbours shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from onnxlite.prune.curve import Curve
from onnxlite.prune.price import Ledger

#: Below one block of the kernels, half a block and a quarter are tried as well.
_LEAST_BLOCK = 4
#: How many steps ahead a group is judged by: a step may save nothing until the next is made.
_AHEAD = 4
#: Damages below this are none.
_NOTHING = 1e-9


def allowed_counts(total: int, width: int, *, round_to: int, minimum: int) -> tuple[int, ...]:
    """How many units of a group may be kept, in descending order from `total`.

    Counts are those whose positions (`width` a unit) are a multiple of `round_to`; below
    one such block also half of it and a quarter, from 4 positions on.
    """
    counts = {total}
    block = round_to
    step = block // gcd(block, width)
    counts.update(range(step, total, step))
    while block > _LEAST_BLOCK:
        block //= 2
        counts.add(block // gcd(block, width))
    return tuple(sorted((c for c in counts if minimum <= c <= total), reverse=True))


def allocate(
    curves: Sequence[Curve],
    counts: Sequence[Sequence[int]],
    ledger: Ledger,
    target: float,
) -> bool:
    """Remove units in `ledger` until its total is at most `target`.

    Args:
        curves: of every group; empty for groups that stay.
        counts: of every group the numbers of units it may keep, descending.
        ledger: the price of the model, on the curves' orders; nothing is removed in it yet.
        target: the price to reach.

    Returns:
        Whether the target was reached; if not, all has gone that may.
    """
    place = [0] * len(curves)
    while ledger.total > target:
        best: tuple[float, int, int] | None = None
        for group, options in enumerate(counts):
            for ahead in range(1, min(_AHEAD, len(options) - 1 - place[group]) + 1):
                rate = _rate(curves[group], options, place[group], ahead, ledger, group)
                if rate is not None and (best is None or rate < best[0]):
                    best = (rate, group, ahead)
        if best is None:
            return False
        _, group, ahead = best
        place[group] += ahead
        ledger.remove(group, counts[group][0] - counts[group][place[group]])
    _give_back(curves, counts, place, ledger, target)
    return True


def _rate(
    curve: Curve, options: Sequence[int], place: int, ahead: int, ledger: Ledger, group: int
) -> float | None:
    """Damage per saving of going `ahead` steps on; None if nothing is saved."""
    old, new = (options[0] - options[i] for i in (place, place + ahead))
    saving = ledger.saving(group, new)
    if saving <= 0:
        return None
    return float(max(curve.damage[new] - curve.damage[old], _NOTHING) / saving)


def _give_back(
    curves: Sequence[Curve],
    counts: Sequence[Sequence[int]],
    place: list[int],
    ledger: Ledger,
    target: float,
) -> None:
    """The last step went beyond the target: undo steps that it made unnecessary."""
    while True:
        best: tuple[float, int] | None = None
        for group, options in enumerate(counts):
            if not place[group]:
                continue
            now, before = (options[0] - options[place[group] - i] for i in (0, 1))
            if ledger.total - ledger.saving(group, before) > target:
                continue
            relief = float(curves[group].damage[now] - curves[group].damage[before])
            if relief > 0 and (best is None or relief > best[0]):
                best = (relief, group)
        if best is None:
            return
        group = best[1]
        place[group] -= 1
        ledger.remove(group, counts[group][0] - counts[group][place[group]])
