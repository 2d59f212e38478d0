"""Target search: how many units of every group to remove for a fraction of a resource.

Counts come from the cost model (`allocation`). For latency they are corrected by timing the
pruned model. Damages of whole blocks do not add up, so whether a branch is removed is decided
by trial: the model without it is repaired and compared on samples held out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from onnxlite.analysis.branches import Branch
from onnxlite.prune.allocation import allocate
from onnxlite.prune.cost_model import (
    CostItem,
    CostModel,
    latency_items,
    latency_ratio,
    static_items,
)
from onnxlite.prune.importance import DamageCurve
from onnxlite.prune.task import PruningTask, RemovedCounts, chosen_units

#: The measured latency is right within this fraction of the target; attempts to get there.
_TOLERANCE, _ATTEMPTS = 0.04, 5
#: Seconds to time one attempt.
_TIMING_S = 1.0
#: Predicted damages may be wrong by this factor; a branch that is worse by more is not tried.
_MAX_DAMAGE_RATIO = 3.0
#: A branch is removed if the error falls to this fraction: less hardly shows in accuracy.
_MAX_ERROR_RATIO = 0.85


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The units to remove.

    Attributes:
        removed: how many units of every group, in the order of its curve.
        fraction: of the resource that is left; of the latency as it was measured. None where
            counts were given.
        complete: the target is reached; if not, everything removable is removed.
    """

    removed: RemovedCounts
    fraction: float | None = None
    complete: bool = True


class TargetSearch:
    """Selects units for one target, with or without some branches.

    Args:
        task: the model and its target.
        curves: of every group.
        branches: the branches that may be removed, by their group.
    """

    def __init__(
        self,
        task: PruningTask,
        curves: Sequence[DamageCurve],
        branches: Mapping[int, Branch] = MappingProxyType({}),
    ) -> None:
        assert task.target is not None
        self.task, self.curves, self.branches = task, curves, branches
        self.counts = task.allowed_counts(curves)
        #: Threads that latency is measured with.
        self.threads = task.context.threads or 1
        self._target = task.target
        self._orders = [curve.order for curve in curves]

    @cached_property
    def _items(self) -> list[CostItem]:
        task = self.task
        if self._target.resource != "latency":
            return static_items(task.model, task.channels, self._target.resource, [task.feed])
        return latency_items(
            task.model,
            task.channels,
            self._orders,
            self.counts,
            task.feed,
            threads=self.threads,
            progress=task.context.progress,
        )

    def plan(self, branches: Set[int] = frozenset()) -> Selection:
        """Select units by the cost model alone.

        Args:
            branches: groups whose branches are removed as a whole.
        """
        return self._plan(branches, self._target.fraction)

    def select(self, branches: Set[int] = frozenset()) -> Selection:
        """Select units; where latency is the target, correct the plan by measuring it.

        The largest error of the prediction is in what lies between layers, so the plan aims
        lower or higher until the measured ratio is right. The closest attempt counts.
        """
        if self._target.resource != "latency":
            return self.plan(branches)
        progress, fraction = self.task.context.progress, self._target.fraction
        tried: dict[RemovedCounts, Selection] = {}
        aim, low, high = fraction, 0.0, 1.0
        for index in range(_ATTEMPTS):
            progress("measure latency", index, _ATTEMPTS)
            plan = self._plan(branches, aim)
            if plan.removed in tried:
                break
            ratio = self._measure(plan.removed)
            tried[plan.removed] = Selection(
                removed=plan.removed,
                fraction=ratio,
                complete=plan.complete or ratio <= fraction * (1 + _TOLERANCE),
            )
            if abs(ratio / fraction - 1) <= _TOLERANCE or (not plan.complete and ratio > fraction):
                break
            low, high = (aim, high) if ratio < fraction else (low, aim)
            guess = aim * fraction / ratio
            aim = guess if low < guess < high else (low + high) / 2
        progress("measure latency", _ATTEMPTS, _ATTEMPTS)

        def distance(found: Selection) -> float:
            assert found.fraction is not None
            return abs(float(np.log(found.fraction / fraction)))

        return min(tried.values(), key=distance)

    def damage(self, selection: Selection) -> float:
        """The damage of a selection, by the curves."""
        pairs = zip(self.curves, selection.removed, strict=True)
        return float(sum(curve.damage[gone] for curve, gone in pairs))

    def _plan(self, branches: Set[int], fraction: float) -> Selection:
        cost = CostModel(self.task.channels, self._orders, self._items, self.branches.values())
        whole = cost.total
        counts = [(0,) if i in branches else counts for i, counts in enumerate(self.counts)]
        complete = allocate(self.curves, counts, cost, fraction * whole, self.task.context.progress)
        return Selection(removed=cost.removed, fraction=cost.total / whole, complete=complete)

    def _measure(self, removed: RemovedCounts) -> float:
        """The latency of the model without some units, over that of the model."""
        candidate = self.task.without(chosen_units(self.curves, removed))
        return latency_ratio(
            self.task.model,
            candidate,
            self.task.feed,
            threads=self.threads,
            budget_s=_TIMING_S,
        )


def select_branches(
    search: TargetSearch, branches: Collection[int], trial: Callable[[RemovedCounts], float]
) -> Selection:
    """Select units and branches: a branch is removed where a trial is clearly better.

    One after the other the branch is added that is predicted to do least damage; the first
    one that is no better is the last.

    Args:
        search: selects the other units.
        branches: groups whose branches may be removed.
        trial: the error of the model without these units, after its repair.
    """
    removed: frozenset[int] = frozenset()
    best, best_error = search.select(), None
    while left := sorted(set(branches) - removed):
        plans = {group: search.plan(removed | {group}) for group in left}
        group = min(left, key=lambda g: (not plans[g].complete, search.damage(plans[g])))
        if best.complete and search.damage(plans[group]) > _MAX_DAMAGE_RATIO * search.damage(best):
            break
        candidate = search.select(removed | {group})
        best_error = trial(best.removed) if best_error is None else best_error
        error = trial(candidate.removed)
        if best.complete and not (candidate.complete and error < _MAX_ERROR_RATIO * best_error):
            break
        removed, best, best_error = removed | {group}, candidate, error
    return best
