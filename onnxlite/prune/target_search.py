"""What is to be reached: a share of MACs, parameters, latency or of each group, or widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import msgspec
import numpy as np
import onnx_ir as ir

from onnxlite.analysis.branches import Branch
from onnxlite.analysis.channels import ChannelMap
from onnxlite.prune.allocation import allocate
from onnxlite.prune.cost_model import CostModel, latency_items, static_items
from onnxlite.prune.importance import DamageCurve
from onnxlite.records import Progress
from onnxlite.samples import Feed

#: Goals that are a share to keep of something that is priced.
_SHARES = ("macs", "params", "latency")


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the five; see `onnxlite.prune_channels`.

    Attributes:
        macs: share of the multiply-accumulates to keep, above 0 to 1.
        params: share of the parameters to keep.
        latency: share of the measured time to keep.
        remove: fraction of the units of every group to remove; or by group.
        widths: units that groups keep, by name; a group whose branch may end may keep none.
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    remove: float | Mapping[str, float] | None = None
    widths: Mapping[str, int] | None = None

    @property
    def kept(self) -> tuple[str, float] | None:
        """What is priced, and the share of it to keep; None for `remove` or widths."""
        for name in _SHARES:
            if (share := getattr(self, name)) is not None:
                return name, share
        return None


#: Latency is right within this share of the goal; tries to get there.
_CLOSE, _TRIES = 0.04, 5

#: How many units of every group are gone.
Removed = tuple[int, ...]


class Selection:
    """What was chosen, and how far it goes by its own price.

    Attributes:
        removed: how many units of every group go, in the order of its curve.
        share: the share of the price that is left; of the latency as it was measured.
        complete: the goal is reached; if not, all that may go does.
    """

    def __init__(self, removed: Removed, share: float, *, complete: bool) -> None:
        self.removed, self.share, self.complete = removed, share, complete


class TargetSearch:
    """Chooses by a price: MACs, parameters, or the time of layers.

    Args:
        model: the model; left as it is.
        channels: its units.
        curves: of every group.
        counts: of every group the numbers of units it may keep, descending.
        goal: what is priced, and the share to keep.
        feed: concrete inputs.
        measure: the latency ratio of the model without these units to the model.
        branches: that cost nothing where all units of their group are gone.
        threads: of ONNX Runtime, for latency.
        progress: called as layers are timed.
    """

    def __init__(
        self,
        model: ir.Model,
        channels: ChannelMap,
        curves: Sequence[DamageCurve],
        counts: Sequence[Sequence[int]],
        goal: Goal,
        *,
        feed: Feed,
        measure: Callable[[Removed], float],
        branches: Iterable[Branch] = (),
        threads: int | None,
        progress: Progress,
    ) -> None:
        assert goal.kept is not None
        self._curves, self._counts, self._measure = curves, counts, measure
        self._progress, self._share = progress, goal.kept[1]
        self._timed = goal.kept[0] == "latency"
        orders = [curve.order for curve in curves]
        if self._timed:
            items = latency_items(
                model, channels, orders, counts, feed, threads=threads, progress=progress
            )
        else:
            items = static_items(model, channels, goal.kept[0], [feed])
        branches = tuple(branches)
        self._fresh: Callable[[], CostModel] = lambda: CostModel(channels, orders, items, branches)

    def planned(self, ended: Set[int] = frozenset()) -> Selection:
        """How many units go, by the price alone.

        Args:
            ended: groups that go altogether.
        """
        ledger = self._fresh()
        whole = ledger.total
        target = self._share * whole
        complete = allocate(self._curves, self._allowed(ended), ledger, target, self._progress)
        return Selection(ledger.removed, ledger.total / whole, complete=complete)

    def reached(self, ended: Set[int] = frozenset()) -> Selection:
        """The same, where latency is the goal corrected by measuring it."""
        if not self._timed:
            return self.planned(ended)
        return _by_measuring(
            self._fresh,
            self._curves,
            self._allowed(ended),
            self._share,
            self._measure,
            self._progress,
        )

    def damage(self, reached: Selection) -> float:
        """The damage of a choice, by the curves."""
        pairs = zip(self._curves, reached.removed, strict=True)
        return float(sum(curve.damage[gone] for curve, gone in pairs))

    def _allowed(self, ended: Set[int]) -> list[Sequence[int]]:
        return [(0,) if i in ended else counts for i, counts in enumerate(self._counts)]


def _by_measuring(
    fresh: Callable[[], CostModel],
    curves: Sequence[DamageCurve],
    counts: Sequence[Sequence[int]],
    share: float,
    measure: Callable[[Removed], float],
    progress: Progress,
) -> Selection:
    """Correct what the times of layers predict by what the whole model is measured to take.

    The widest gap between the two is in what lies between layers, so that the prediction is
    aimed lower or higher until the measured ratio is right. Of all tries the closest counts.
    """
    tried: dict[Removed, tuple[float, bool]] = {}
    aim, low, high = share, 0.0, 1.0
    for index in range(_TRIES):
        progress("measure latency", index, _TRIES)
        ledger = fresh()
        complete = allocate(curves, counts, ledger, aim * ledger.total, progress)
        if ledger.removed in tried:
            break
        ratio = measure(ledger.removed)
        tried[ledger.removed] = (ratio, complete)
        if abs(ratio / share - 1) <= _CLOSE or (not complete and ratio > share):
            break
        low, high = (aim, high) if ratio < share else (low, aim)
        guess = aim * share / ratio
        aim = guess if low < guess < high else (low + high) / 2
    progress("measure latency", _TRIES, _TRIES)
    removed = min(tried, key=lambda key: abs(float(np.log(tried[key][0] / share))))
    ratio, complete = tried[removed]
    return Selection(removed, ratio, complete=complete or ratio <= share * (1 + _CLOSE))
