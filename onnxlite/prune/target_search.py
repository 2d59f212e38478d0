"""Target search: the number of units to remove from every group for a target cost.

The numbers come from the cost model (`allocation`). For latency they are corrected by timing
the pruned model, and the selection is cached: times differ from run to run, and worker
processes must select the same units as this one. The damage of removing a branch is measured
by trial, because damages of branches are not additive: the model without the branch is
repaired and compared on held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType

import msgspec
import numpy as np

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.cache import Cache, CacheKey
from onnxlite.machine import is_busy
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

#: Tolerance of the measured latency, relative to the target; attempts to reach it.
_TOLERANCE, _ATTEMPTS = 0.04, 5
#: Seconds to time one attempt.
_TIMING_S = 1.0
#: Branches whose predicted damage is larger by more than this factor are not tried.
_MAX_DAMAGE_RATIO = 3.0
#: A branch is removed if the error falls below this fraction of that with the branch.
_MAX_ERROR_RATIO = 0.85


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The units to remove.

    Attributes:
        removed: number of units to remove from every group, in the order of its curve.
        fraction: fraction of the resource that remains, measured if it is latency; None if
            numbers were given, or the model has none of it.
        complete: True if the target is reached; if not, all removable units are removed.
    """

    removed: RemovedCounts
    fraction: float | None = None
    complete: bool = True


class TargetSearch:
    """Search for the units to remove for one target, with or without some branches.

    Args:
        task: the model and its target.
        curves: damage curves of all groups.
        branches: branches that may be removed, by their group.
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
        #: Threads to measure latency with.
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
        """Select units; correct the plan by measurements if latency is the target.

        The cost model predicts layers better than the nodes between them, so the predicted
        fraction is adjusted until the measured one is right. Returns the closest attempt.
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
        """Predict the damage of a selection from the curves."""
        pairs = zip(self.curves, selection.removed, strict=True)
        return float(sum(curve.damage[count] for curve, count in pairs))

    def _plan(self, branches: Set[int], fraction: float) -> Selection:
        cost = CostModel(self.task.channels, self._orders, self._items, self.branches.values())
        whole = cost.total
        counts = [(0,) if i in branches else counts for i, counts in enumerate(self.counts)]
        complete = allocate(self.curves, counts, cost, fraction * whole, self.task.context.progress)
        left = cost.total / whole if whole else None
        return Selection(removed=cost.removed, fraction=left, complete=complete)

    def _measure(self, removed: RemovedCounts) -> float:
        """Measure the latency without some units, relative to that of the model."""
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
    """Select units and branches; remove a branch if a trial is clearly better.

    Branches are tried one by one, the one of least predicted damage first, until a trial is
    not better.

    Args:
        search: search for the other units.
        branches: groups whose branches may be removed.
        trial: function that repairs the model without some units and returns its error.
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


class _Record(msgspec.Struct):
    """A `Selection` in the cache."""

    removed: tuple[int, ...]
    fraction: float
    complete: bool


class SelectionCache:
    """Cached selection of one search, which was made by measuring latency.

    The key holds the model's structure, the curves (which depend on weights and samples), the
    numbers of units that groups may keep, the target, and the code of `onnxlite.prune`.
    """

    def __init__(self, search: TargetSearch) -> None:
        task = search.task
        curves = sha256()
        for curve, counts in zip(search.curves, search.counts, strict=True):
            curves.update(curve.order.tobytes() + curve.damage.tobytes() + repr(counts).encode())
        details = (
            curves.hexdigest(),
            str(task.target),
            str(sorted(search.branches)),
            str(search.threads),
            str(task.samples is not None),
        )
        search_key = fingerprint(task.model, [task.feed], details)
        self._cache = Cache()
        self._key = CacheKey("channels", ("onnxlite.prune",), {"search": search_key})
        self._busy = is_busy()

    def read(self) -> Selection | None:
        """Return the cached selection; None if there is none."""
        record = self._cache.read(self._key, _Record)
        if record is None:
            return None
        return Selection(removed=record.removed, fraction=record.fraction, complete=record.complete)

    def write(self, selection: Selection) -> None:
        """Cache a selection, unless the cache is not writable."""
        assert selection.fraction is not None
        record = _Record(
            tuple(map(int, selection.removed)),
            float(selection.fraction),
            bool(selection.complete),
        )
        self._cache.write(self._key, record, busy=self._busy or is_busy())
