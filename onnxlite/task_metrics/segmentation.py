"""Segmentation: intersection over union with the reference's masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import (
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
    finite,
    per_sample,
)
from onnxlite.task_metrics.observation import Observation, ObservedOutput

#: Classes of fewer of a sample's pixels do not count: a few pixels decide nothing.
_MIN_FRACTION = 1e-3
#: In a mask most values are near 0 or 1, unlike in a picture.
_NEAR, _MOSTLY = 0.1, 0.8
_MASK_THRESHOLD = 0.5
#: Of its peak, below which a heat map is empty.
_FLAT = 0.03


@dataclass(frozen=True)
class Segmentation(TaskMetric):
    """Mean IoU with the reference's classes of pixels, or IoU with its mask.

    Of scores per class the classes with at least 0.1% of a sample's pixels count, all the same.
    Of masks the pixels of all samples are summed up first.

    Attributes:
        output: its name.
        kind: `"top"`: the best class along `axis`; `"mask"`: values above `threshold`;
            `"class"`: the output holds classes.
        axis: of the scores.
        threshold: of a mask.
    """

    name: ClassVar[str] = "segmentation"
    meaning: ClassVar[str] = "mean IoU with the original's masks is 0.99"

    output: str
    kind: Literal["top", "mask", "class"]
    axis: int = 1
    threshold: float = _MASK_THRESHOLD

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to the first output with a class, or a probability, of each pixel."""
        for output in (*observed.integers, *observed.floats):
            if output.rank < 3:
                continue
            if output.is_integer:
                return Proposal(cls(output.name, "class"), f"{output}, classes: mean IoU")
            if found := _fit(output, strict=strict):
                metric, evidence = found
                return Proposal(metric, f"{output}, {evidence}")
        return None

    def decode(self, outputs: Outputs, samples: int) -> list[NDArray[Any]]:
        """Class of every pixel, or True inside of the mask, by sample."""
        found = per_sample(outputs[self.output], samples)
        if self.kind == "class":
            return found
        if self.kind == "mask":
            return [finite(one) > self.threshold for one in found]
        axis = self.axis - 1
        return [finite(one).argmax(axis).astype(np.int32) for one in found]

    def losses(
        self, reference: Sequence[NDArray[Any]], candidate: Sequence[NDArray[Any]]
    ) -> SampleLosses:
        """1 - IoU."""
        if self.kind != "mask":
            pairs = zip(reference, candidate, strict=True)
            return SampleLosses.mean(np.array([1 - _mean_iou(*pair) for pair in pairs]))
        lost, all_ = [], []
        for one, two in zip(reference, candidate, strict=True):
            if one.shape != two.shape:
                lost.append(np.count_nonzero(one))
                all_.append(np.count_nonzero(one))
                continue
            lost.append(np.count_nonzero(one ^ two))
            all_.append(np.count_nonzero(one | two))
        return SampleLosses(SampleRatio(np.array(lost, float), np.array(all_, float)))


def _fit(output: ObservedOutput, *, strict: bool) -> tuple[Segmentation, str] | None:
    values = output.values
    if values.ndim == 4:
        for axis in (1, 3):
            if output.sums_to_one(axis):
                text = f"probabilities of {values.shape[axis]} classes: mean IoU"
                return Segmentation(output.name, "top", axis), text
    # One value per pixel, or per step of a signal.
    if output.in_unit_interval and (1 in (values.shape[1], values.shape[-1]) or not strict):
        ends = ((values < _NEAR) | (values > 1 - _NEAR)).mean()
        if values.max() > _MASK_THRESHOLD and (ends > _MOSTLY or not strict):
            text = f"values in 0..1, {ends:.0%} of them near 0 or 1: IoU above {_MASK_THRESHOLD}"
            return Segmentation(output.name, "mask"), text
    if values.ndim != 4 or values.shape[1] < 2 or output.in_unit_interval:
        return None
    linear = output.source.kind == "linear"
    if strict and (not linear or not _is_logits(values)):
        return None
    text = f"scores of {values.shape[1]} classes per pixel: mean IoU"
    return Segmentation(output.name, "top", 1), text


def _is_logits(values: NDArray[np.float64]) -> bool:
    """Tell scores of classes from pictures and heat maps.

    Scores of classes in turn are the largest in wide areas, and have both signs; a heat map is
    near zero outside of its peaks.
    """
    if values.shape[1] < 2 or values.min() >= 0:
        return False
    tops = values.argmax(axis=1)
    shares = np.bincount(tops.reshape(-1), minlength=values.shape[1]) / tops.size
    peak = np.abs(values).max(axis=(0, 2, 3), keepdims=True)
    flat = (np.abs(values) < _FLAT * np.maximum(peak, 1e-30)).mean()
    return bool((shares > _MIN_FRACTION).sum() >= 2 and flat < _MOSTLY)


def _mean_iou(one: NDArray[Any], two: NDArray[Any]) -> float:
    if one.shape != two.shape:
        return 0.0
    ious = []
    classes, counts = np.unique(one, return_counts=True)
    for value in classes[counts >= _MIN_FRACTION * one.size]:
        inside, other = one == value, two == value
        ious.append(np.count_nonzero(inside & other) / np.count_nonzero(inside | other))
    return float(np.mean(ious)) if ious else 1.0
