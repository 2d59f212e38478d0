"""Boxes: intersection over union, non-maximum suppression and matching, in NumPy.

A box is `(left, top, right, bottom)`, in any unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array64 = NDArray[np.float64]

#: Boxes kept per sample before suppression.
_MAX_BOXES = 300


@dataclass(frozen=True)
class Detections:
    """Detections of one sample.

    Attributes:
        boxes: float64[detections, 4].
        scores: confidence, 0 to 1, float64[detections].
        classes: int64[detections].
    """

    boxes: Array64
    scores: Array64
    classes: NDArray[np.int64]

    def taken(self, rows: NDArray[np.intp]) -> Detections:
        """The detections at some indices."""
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows])


def pairwise_iou(one: Array64, two: Array64) -> Array64:
    """Intersection over union of all pairs of boxes, float64[len(one), len(two)]."""
    low = np.maximum(one[:, None, :2], two[None, :, :2])
    high = np.minimum(one[:, None, 2:], two[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, two)]
    union = areas[0][:, None] + areas[1][None, :] - common
    iou: Array64 = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def suppressed(found: Detections, *, min_score: float, max_iou: float) -> Detections:
    """Greedy non-maximum suppression per class, best score first.

    Args:
        found: all boxes of a sample.
        min_score: boxes below are dropped first.
        max_iou: boxes that overlap a better one of their class by more are dropped.
    """
    rows = np.flatnonzero(found.scores > min_score)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")][:_MAX_BOXES]
    found = found.taken(rows)
    overlaps = pairwise_iou(found.boxes, found.boxes) > max_iou
    overlaps &= found.classes[:, None] == found.classes[None, :]
    alive = np.ones(len(rows), bool)
    for row in range(len(rows)):
        if alive[row]:
            alive[row + 1 :] &= ~overlaps[row, row + 1 :]
    return found.taken(np.flatnonzero(alive))


def match(
    reference: Detections, candidate: Detections, *, min_iou: float
) -> tuple[NDArray[np.intp], Array64]:
    """Pair detections of one class, best score of the reference first, by their overlap.

    Returns:
        Index of the candidate's detection for each of the reference, -1 without one; and the
        IoU of the pair, 0 without one.
    """
    iou = pairwise_iou(reference.boxes, candidate.boxes)
    iou[reference.classes[:, None] != candidate.classes[None, :]] = 0
    partners = np.full(len(reference.scores), -1, np.intp)
    overlap = np.zeros(len(reference.scores))
    for row in np.argsort(-reference.scores, kind="stable"):
        column = int(iou[row].argmax()) if iou.shape[1] else -1
        if column >= 0 and iou[row, column] >= min_iou:
            partners[row], overlap[row] = column, iou[row, column]
            iou[:, column] = 0
    return partners, overlap
