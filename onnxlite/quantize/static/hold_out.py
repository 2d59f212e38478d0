"""Samples that are held out of the whole step, for figures that do not flatter.

Candidates are spread evenly over the samples, before anything is fitted. The pass of calibration
then shows which of them make a range much wider: these are needed for the ranges, and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxlite.calibrate import SampleLimits
from onnxlite.records import HoldOut

#: A sample stays that makes a range wider by this fraction of its width.
_MAX_WIDENING = 0.1
_RULE = "evenly spread samples that make no range wider by a tenth"


def settle_hold_out(
    candidates: Iterable[int], limits: Mapping[str, SampleLimits]
) -> tuple[int, ...]:
    """Drop the candidates without which a range would be narrower by a tenth."""
    kept = set(candidates)
    for seen in limits.values():
        whole = seen.without(())
        if seen.whole or whole is None:
            continue
        # The farthest of those held out is given back until the range is wide enough.
        while kept and (rest := seen.without(kept)) is not None:
            if whole.width - rest.width <= _MAX_WIDENING * whole.width:
                break
            excess = {s: by for s, by in seen.beyond(rest).items() if s in kept}
            if not excess:
                break  # the others reach as far, or the numbers are too large to tell
            kept.remove(max(excess, key=lambda sample: (excess[sample], sample)))
    return tuple(sorted(kept))


def hold_out_record(held_out: int) -> HoldOut:
    """Describe the hold-out of some samples; of none, the first feed stands for it."""
    if not held_out:
        return HoldOut(rule="the first feed", feeds=1, shared=True)
    return HoldOut(rule=_RULE, feeds=held_out, unit="sample")
