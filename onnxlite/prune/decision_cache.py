"""Choices that were made by measuring times, kept: the same question gets the same answer.

Times differ a little from one measurement to the next, and with them the channels that go. A
search on workers must find what one in this process finds, so what was measured once on a
machine holds there, like a placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import onnx_ir as ir

from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.cache import cache_folder, keep_numbers, read_numbers
from onnxlite.prune.importance import DamageCurve
from onnxlite.prune.target_search import Selection
from onnxlite.samples import Feed

#: Raised whenever choices are made in another way.
_VERSION = 1


class DecisionCache:
    """The choice for one model, its curves and one goal, in the user's cache folder.

    Args:
        model: that channels go from.
        curves: of every group; they depend on the weights and the samples.
        counts: of every group the numbers of units it may keep.
        feed: what is timed.
        details: whatever else the choice depends on.
    """

    def __init__(
        self,
        model: ir.Model,
        curves: Sequence[DamageCurve],
        counts: Sequence[Sequence[int]],
        feed: Feed,
        details: Iterable[object],
    ) -> None:
        seen = sha256()
        for curve, allowed in zip(curves, counts, strict=True):
            seen.update(curve.order.tobytes() + curve.damage.tobytes() + repr(allowed).encode())
        key = fingerprint(model, [feed], (f"{_VERSION} {seen.hexdigest()}", *map(str, details)))
        self._path: Path = cache_folder() / f"channels-{key}.json"
        self._groups = len(curves)

    def known(self) -> Selection | None:
        """What was chosen before, if anything."""
        found = read_numbers(self._path)
        try:
            removed = tuple(int(found[str(index)]) for index in range(self._groups))
            return Selection(removed, found["share"], complete=bool(found["complete"]))
        except KeyError:
            return None

    def keep(self, reached: Selection) -> None:
        """Remember a choice; where that cannot be, it is made again the next time."""
        numbers = {str(index): float(count) for index, count in enumerate(reached.removed)}
        keep_numbers(
            self._path, {**numbers, "share": reached.share, "complete": float(reached.complete)}
        )
