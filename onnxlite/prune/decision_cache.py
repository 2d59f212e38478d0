"""Choices that were made by measuring times, kept: the same question gets the same answer.

Times differ a little from one measurement to the next, and with them the channels that go. A
search on workers must find what one in this process finds, so what was measured once on a
machine holds there, like a placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec
import onnx_ir as ir

from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.cache import Cache, CacheKey
from onnxlite.machine import is_busy
from onnxlite.prune.importance import DamageCurve
from onnxlite.prune.target_search import Selection
from onnxlite.samples import Feed


class _Kept(msgspec.Struct):
    """A `Selection` in the cache."""

    removed: tuple[int, ...]
    fraction: float
    complete: bool


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
        question = fingerprint(model, [feed], (seen.hexdigest(), *map(str, details)))
        self._cache = Cache()
        self._key = CacheKey("channels", ("onnxlite.prune",), {"question": question})
        self._busy = is_busy()

    def known(self) -> Selection | None:
        """What was chosen before, if anything."""
        kept = self._cache.read(self._key, _Kept)
        if kept is None:
            return None
        return Selection(kept.removed, kept.fraction, complete=kept.complete)

    def keep(self, reached: Selection) -> None:
        """Remember a choice; where that cannot be, it is made again the next time."""
        kept = _Kept(tuple(map(int, reached.removed)), float(reached.share), bool(reached.complete))
        self._cache.write(self._key, kept, busy=self._busy or is_busy())
