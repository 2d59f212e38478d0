"""Split of the samples of a search: calibration, selection and final check never overlap.

Steps are calibrated on the first part. Candidates are chosen by the second. The third is seen
by nothing until the choice is made, because a figure on samples that a choice was made by
flatters it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import SamplesError
from onnxlite.holdout import LastFraction, SampleStream
from onnxlite.inputs import InputSpec
from onnxlite.recipe.split import MIN_HELD_OUT, SampleUse
from onnxlite.samples import Samples, SamplesLike

Labels = NDArray[Any]

#: Selection and final check together, half of the set or at least so many samples.
_HELD_OUT = LastFraction(0.5, minimum=2 * MIN_HELD_OUT, largest_fraction=2 / 3)


@dataclass(frozen=True, kw_only=True)
class SampleSplit:
    """The three parts, with the labels of the two that quality is measured on.

    Attributes:
        calibration: samples for the steps; re-iterable, like the others.
        selection: samples that candidates are compared on.
        check: samples that the chosen one is checked on.
        selection_labels: one entry per sample, or None.
        check_labels: the same for `check`.
        counts: samples in each part, in this order.
        use: the record for the report.
    """

    calibration: SamplesLike
    selection: SamplesLike
    check: SamplesLike
    selection_labels: Labels | None
    check_labels: Labels | None
    counts: tuple[int, int, int]
    use: SampleUse


def split_samples(
    samples: SamplesLike,
    inputs: Sequence[InputSpec],
    *,
    evaluation: SamplesLike | None = None,
    labels: Labels | Sequence[Any] | None = None,
) -> SampleSplit:
    """Split samples: half for calibration, a quarter each for selection and final check.

    With `evaluation`, all samples are for calibration and `evaluation` is halved. Where there
    are too few to split, all three parts are the same samples, and the record says so.

    Args:
        samples: inputs of the model.
        inputs: their specification.
        evaluation: separate inputs for selection and check.
        labels: one entry per sample of `evaluation`, or else of `samples`.

    Raises:
        SamplesError: the samples do not fit the model, or the labels not the samples.
    """
    first = SampleStream(Samples(samples, inputs))
    second = first if evaluation is None else SampleStream(Samples(evaluation, inputs))
    classes = _checked_labels(labels, second.total, separate=evaluation is not None)
    total = second.total
    if evaluation is None:
        held_out = _HELD_OUT.count(total)
        start = calibration = second.nearest_cut(total - held_out)
        middle = second.nearest_cut(total - held_out // 2)
    else:
        start, calibration = 0, first.total
        middle = second.nearest_cut(total // 2)
    counts = (calibration, middle - start, total - middle)
    bounds = (start, middle, middle, total)
    note = (
        f"{counts[0]} samples for calibration, {counts[1]} for the choice, "
        f"{counts[2]} for a final check that the choice has not seen"
    )
    if shared := not all(counts):
        counts, bounds = (first.total, total, total), (0, total, 0, total)
        note = (
            f"{total} samples cannot be split into calibration, selection and final check, so "
            "these share them and the figures are flattered; give some hundred samples"
        )
    parts = [slice(*bounds[:2]), slice(*bounds[2:])]
    return SampleSplit(
        calibration=first.between(0, counts[0]),
        selection=second.between(parts[0].start, parts[0].stop),
        check=second.between(parts[1].start, parts[1].stop),
        selection_labels=None if classes is None else classes[parts[0]],
        check_labels=None if classes is None else classes[parts[1]],
        counts=counts,
        use=SampleUse(
            calibration=counts[0],
            evaluation=counts[2],
            origin="shared" if shared else "held-out" if evaluation is None else "given",
            note=note,
        ),
    )


def _checked_labels(
    labels: Labels | Sequence[Any] | None, total: int, *, separate: bool
) -> Labels | None:
    """The labels as an array, one per sample."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if not array.ndim or len(array) != total:
        raise SamplesError(
            f"labels of shape {list(array.shape)} for {total} samples: give one entry per "
            f"sample{' of the evaluation set' if separate else ''}"
        )
    return array
