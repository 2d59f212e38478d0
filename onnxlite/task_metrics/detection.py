"""Detection: the original's boxes and scores, found again by the candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import (
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
)
from onnxlite.task_metrics.boxes import Detections, match, suppressed
from onnxlite.task_metrics.detection_layouts import DetectionLayout, find_layout
from onnxlite.task_metrics.observation import Observation

Array64 = NDArray[np.float64]

#: From a model's outputs to one array `[detections, 6]` per sample: left, top, right, bottom,
#: score and class.
Decoder = Callable[[Outputs], Sequence[NDArray[Any]]]

#: Confidence above which a detection is shown, as YOLO's tools have it.
MIN_SCORE = 0.25
_MAX_IOU = 0.6
#: IoU thresholds of COCO's average precision.
_IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


@dataclass(frozen=True)
class Detection(TaskMetric):
    """F1 score of the candidate's detections against the reference's.

    It is averaged over COCO's IoU thresholds 0.5 to 0.95 and over all confidence thresholds from
    `min_score` to 1: of a pair with scores s and t, min(s, t) - min_score of the thresholds keep
    both, and |s - t| keep one of the two. So it falls with boxes that are lost, added or moved,
    and with scores that change. Figures: recall, IoU and score error of the reference's
    detections.

    Attributes:
        layout: where boxes and scores are; or a function that decodes the outputs.
        min_score: least confidence of a detection.
        max_iou: of the suppression of boxes that overlap a better one.
    """

    name: ClassVar[str] = "detection"
    meaning: ClassVar[str] = (
        "1% of the detections, weighted by confidence, are lost, added or moved"
    )

    layout: DetectionLayout | Decoder
    min_score: float = MIN_SCORE
    max_iou: float = _MAX_IOU

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to a layout that values and shapes show.

        Where the reference finds less than one object per sample above `MIN_SCORE`, the strongest
        detections count, down to half of the score that one per sample reaches.
        """
        del strict
        layout = find_layout(observed)
        if layout is None:
            return None
        scores = _scores(layout, observed)
        if not scores.size:
            return None
        usual, min_score = float(scores[min(observed.samples, len(scores)) - 1]), MIN_SCORE
        if usual < MIN_SCORE:
            min_score = round(usual / 2, 6)
        found = int((scores > min_score).sum())
        outputs = " and ".join(
            str(observed.outputs[name])
            for name in dict.fromkeys((layout.boxes[0], layout.scores[0]))
        )
        return Proposal(
            cls(layout, min_score=min_score),
            f"{outputs}, boxes and scores as {layout.name} has them, {found} detections above "
            f"{min_score:.2g} on {observed.samples} samples: F1 of the detections",
        )

    def decode(self, outputs: Outputs, samples: int) -> list[Detections]:
        """Detections of each sample, after suppression.

        Raises:
            OptionError: a decoder gave something else than arrays `[detections, 6]`.
        """
        if isinstance(self.layout, DetectionLayout):
            found = self.layout.decode(outputs, samples)
        else:
            found = [_checked(array) for array in self.layout(outputs)]
        return [suppressed(d, min_score=self.min_score, max_iou=self.max_iou) for d in found]

    def losses(
        self, reference: Sequence[Detections], candidate: Sequence[Detections]
    ) -> SampleLosses:
        """Detections that only one model has, of the mean number of both."""
        rows = [self._compare(*pair) for pair in zip(reference, candidate, strict=True)]
        lost, all_, kept, count, overlap, score = np.array(rows, np.float64).reshape(-1, 6).T
        return SampleLosses(
            SampleRatio(lost, all_),
            figures={
                "recall": SampleRatio(kept, count),
                "iou": SampleRatio(overlap, kept),
                "score_error": SampleRatio(score, kept),
            },
        )

    @property
    def cache_name(self) -> str | None:
        """Name with the layout; None with a decoder of the user's."""
        return super().cache_name if isinstance(self.layout, DetectionLayout) else None

    def _compare(self, one: Detections, two: Detections) -> tuple[float, ...]:
        partners, iou = match(one, two, min_iou=_IOU_THRESHOLDS[0])
        weights = [np.clip(d.scores - self.min_score, 0, None) for d in (one, two)]
        pairs = partners >= 0
        other = partners[pairs]
        common = np.minimum(weights[0][pairs], weights[1][other])
        passed = (iou[pairs, None] >= _IOU_THRESHOLDS - 1e-9).mean(axis=1)
        mass = (weights[0].sum() + weights[1].sum()) / 2
        error = np.abs(one.scores[pairs] - two.scores[other]).sum()
        lost = mass - (common * passed).sum()
        return lost, mass, int(pairs.sum()), len(partners), iou[pairs].sum(), error


def _scores(layout: DetectionLayout, observed: Observation) -> Array64:
    """Scores of all detections, best first."""
    metric = Detection(layout, min_score=0.0)
    found = [d.scores for o, n in observed.runs() for d in metric.decode(o, n)]
    return np.sort(np.concatenate(found))[::-1]


def _checked(array: NDArray[Any]) -> Detections:
    rows = np.asarray(array, np.float64)
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise OptionError(
            f"the decoder gave an array of shape {list(rows.shape)}: give one array "
            "[detections, 6] per sample, with left, top, right, bottom, score and class"
        )
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
