"""Decision cache: units that were selected by measuring latency, kept between processes.

Measured times differ from run to run, and with them the selected units. A search on workers
must find what one in this process finds, so a selection that was measured once on a machine
holds there, like a placement.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from onnxlite.analysis.fingerprint import fingerprint
from onnxlite.cache import Cache, CacheKey
from onnxlite.machine import is_busy
from onnxlite.prune.target_search import Selection, TargetSearch


class _Record(msgspec.Struct):
    """A `Selection` in the cache."""

    removed: tuple[int, ...]
    fraction: float
    complete: bool


class DecisionCache:
    """The selection of one search, in the user's cache folder.

    Its key holds the model's structure, the curves (which depend on weights and samples), the
    counts that groups may keep, the target, and the code of `onnxlite.prune`.
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
        question = fingerprint(task.model, [task.feed], details)
        self._cache = Cache()
        self._key = CacheKey("channels", ("onnxlite.prune",), {"question": question})
        self._busy = is_busy()

    def read(self) -> Selection | None:
        """The selection of a former process, if there is one."""
        record = self._cache.read(self._key, _Record)
        if record is None:
            return None
        return Selection(removed=record.removed, fraction=record.fraction, complete=record.complete)

    def write(self, selection: Selection) -> None:
        """Keep a selection; where that is impossible, it is measured again the next time."""
        assert selection.fraction is not None
        record = _Record(
            tuple(map(int, selection.removed)),
            float(selection.fraction),
            bool(selection.complete),
        )
        self._cache.write(self._key, record, busy=self._busy or is_busy())
