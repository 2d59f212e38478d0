"""Calibration and evaluation samples that never overlap.

Where the caller gives one set, its end is held out: fidelity measured on samples that a
step was fitted to would flatter the result.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from onnxlite.holdout import LastFraction, SampleStream
from onnxlite.samples import Samples, SamplesLike

#: Of a single set the last quarter is held out for evaluation, and at least so many samples.
MIN_HELD_OUT = 8
_RULE = LastFraction(0.25, minimum=MIN_HELD_OUT)


class SampleUse(msgspec.Struct, frozen=True, kw_only=True):
    """Record of the samples that a run used, by purpose.

    Attributes:
        calibration: number of samples the steps could use.
        evaluation: number of samples that fidelity was measured on.
        origin: `"given"` evaluation samples, the `"held-out"` end of the only set, the
            `"shared"` set that is both, or `"generated"` inputs.
        note: the same in one sentence.
    """

    calibration: int
    evaluation: int
    origin: Literal["given", "held-out", "shared", "generated"]
    note: str


def split(
    samples: Samples, evaluation: SamplesLike | None = None, *, calibration: int | None = None
) -> tuple[SamplesLike, SamplesLike, SampleUse]:
    """Split samples into those for calibration and those for evaluation.

    Feeds whose batch axis is fixed stay whole, so a cut inside of one moves to the start of
    the next.

    Args:
        samples: the only set, or that for calibration.
        evaluation: the set for evaluation; without it the last quarter of `samples`, at least
            8 and at most half of them, is held out.
        calibration: number of samples for calibration, from the first on; without `evaluation`
            those behind them are held out.

    Returns:
        Calibration samples, evaluation samples, and the record of the split.
    """
    stream = SampleStream(samples)
    total = stream.total
    cut = total if calibration is None else stream.nearest_cut(min(calibration, total))
    if evaluation is not None:
        checked = Samples(evaluation, samples.inputs)
        count = checked.count()
        note = f"{cut} samples for calibration, {count} separate ones for evaluation"
        return (
            samples if cut == total else stream.between(0, cut),
            checked,
            SampleUse(calibration=cut, evaluation=count, origin="given", note=note),
        )
    if calibration is None:
        cut = stream.nearest_cut(total - _RULE.count(total))
    if cut in (0, total):
        note = (
            f"the {total} samples cannot be split, so calibration and evaluation share them: "
            "fidelity is flattered; give evaluation samples"
        )
        return (
            samples,
            samples,
            SampleUse(calibration=total, evaluation=total, origin="shared", note=note),
        )
    note = f"the last {total - cut} of {total} samples are held out for evaluation"
    return (
        stream.between(0, cut),
        stream.between(cut, total),
        SampleUse(calibration=cut, evaluation=total - cut, origin="held-out", note=note),
    )
