"""Split of the samples of a search: calibration, selection and final check never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import SamplesError
from onnxlite.holdout import SampleStream
from onnxlite.recipe.split import MIN_HELD_OUT, SampleUse
from onnxlite.samples import Feed, InputSpec, Samples, SamplesLike

Labels = NDArray[Any]


@dataclass(frozen=True)
class SampleSplit:
    """The three parts, with the labels of those two that are judged on.

    Attributes:
        calibration: what steps are given; re-iterable, like the others.
        selection: what candidates are compared on.
        check: what the chosen one is checked on.
        selection_labels: one entry per sample, or None.
        check_labels: the same of `check`.
        counts: samples in each part.
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
    """Cut the samples: half for calibration, a quarter each for selection and check.

    With `evaluation`, all samples are for calibration and `evaluation` is halved.

    Args:
        samples: the inputs.
        inputs: of the model.
        evaluation: separate inputs for selection and check.
        labels: one entry per sample of `evaluation`, or else of `samples`.

    Raises:
        SamplesError: the samples do not fit the model, or the labels not the samples.
    """
    whole = SampleStream(Samples(samples, inputs))
    judged = whole if evaluation is None else SampleStream(Samples(evaluation, inputs))
    classes = None if labels is None else np.asarray(labels)
    if classes is not None and (not classes.ndim or len(classes) != judged.total):
        raise SamplesError(
            f"labels of shape {list(classes.shape)} for {judged.total} samples: give one entry per "
            f"sample{'' if evaluation is None else ' of the evaluation set'}"
        )
    if evaluation is not None:
        first, stop = 0, judged.nearest_cut(judged.total // 2)
        count = whole.total
    else:
        held = max(judged.total // 2, min(2 * MIN_HELD_OUT, 2 * judged.total // 3))
        first = count = judged.nearest_cut(judged.total - held)
        stop = judged.nearest_cut(judged.total - held // 2)
    selection, check = stop - first, judged.total - stop
    if not (count and selection and check):
        return _shared(whole, judged, classes)
    note = (
        f"{count} samples for calibration, {selection} for the choice, "
        f"{check} for a final check that the choice has not seen"
    )
    use = SampleUse(
        calibration=count,
        evaluation=check,
        origin="held-out" if evaluation is None else "given",
        note=note,
    )
    return SampleSplit(
        calibration=whole.between(0, count),
        selection=judged.between(first, stop),
        check=judged.between(stop, judged.total),
        selection_labels=None if classes is None else classes[first:stop],
        check_labels=None if classes is None else classes[stop:],
        counts=(count, selection, check),
        use=use,
    )


def _shared(whole: SampleStream, judged: SampleStream, labels: Labels | None) -> SampleSplit:
    """Too few to cut: the parts are the same samples, and the record says so."""
    note = (
        f"{judged.total} samples cannot be cut into calibration, choice and check, so these share "
        "them and the figures flatter; give some hundred samples"
    )
    use = SampleUse(calibration=whole.total, evaluation=judged.total, origin="shared", note=note)
    everything = judged.between(0, judged.total)
    return SampleSplit(
        calibration=whole.between(0, whole.total),
        selection=everything,
        check=everything,
        selection_labels=labels,
        check_labels=labels,
        counts=(whole.total, judged.total, judged.total),
        use=use,
    )


def digest(feeds: Samples, labels: Labels | None = None) -> str:
    """A hash of what samples hold: names, types, shapes, values, and the labels."""
    total = sha256()
    for feed in feeds:
        _add(total, feed)
    if labels is not None:
        total.update(f"labels {labels.dtype} {labels.shape}".encode())
        total.update(np.ascontiguousarray(labels).tobytes())
    return total.hexdigest()


def _add(total: Any, feed: Feed) -> None:
    for name, array in sorted(feed.items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        # Text has no buffer.
        content = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
        total.update(content)
