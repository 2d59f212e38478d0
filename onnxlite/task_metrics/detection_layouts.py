"""Layouts of detectors: boxes and scores out of the raw outputs.

Each layout is recognized by the shape and the values of real outputs:

| layout | outputs | scores |
|---|---|---|
| YOLOv8 | `[n, 4 + classes, anchors]`, or transposed | per class |
| YOLOv5 | `[n, anchors, 5 + classes]` | objectness times class |
| YOLOX | the same, boxes as offsets in a grid of strides 8, 16, 32 | the same |
| YOLOv10 | `[n, detections, 6]`: box, score, class | as they are |
| SSD, DETR | boxes `[n, k, 4]` and scores `[n, k, classes]` or `[n, k]` | softmax or sigmoid |
| PicoDet | per stride: sides `[n, k, 4 * bins]` and scores `[n, k, classes]` | sigmoid |

Boxes are corners, or centre and size; offsets from anchors that are not part of the model stay
offsets, and each anchor gets a place of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import finite, per_sample
from onnxlite.task_metrics.boxes import Detections
from onnxlite.task_metrics.observation import Observation, ObservedOutput

Array64 = NDArray[np.float64]
BoxForm = Literal["corners", "center", "offsets", "grid", "sides"]
Activation = Literal["none", "sigmoid", "softmax"]

#: Strides of a YOLOX head.
_STRIDES = (8, 16, 32)
#: Fewer boxes than this are no grid of anchors.
_MIN_ANCHORS = 64
#: Variances by which SSD scales its offsets (Liu et al. 2016).
_SSD_VARIANCES = (0.1, 0.2)
#: Distance between the places of two anchors, far more than the size of a box.
_APART = 1e6
_MOST = 0.98
#: Distances of a distribution of the sides.
_MIN_BINS = 4


@dataclass(frozen=True)
class DetectionLayout:
    """Where boxes and scores are in the outputs.

    Attributes:
        name: of the layout.
        boxes: outputs of the boxes, one after the other.
        scores: outputs of the scores; the same for layouts of one output.
        form: of the boxes.
        activation: still to be applied to the scores.
        transposed: anchors are the last axis.
        first: column of the first score.
        classes: number of columns with scores.
        objectness: the first score multiplies the others.
        background: class that is no object; None if every class is one.
        labelled: output of the classes, or the column in `scores` behind the score.
        grid: height and width of the pictures, of YOLOX.
    """

    name: str
    boxes: tuple[str, ...]
    scores: tuple[str, ...]
    form: BoxForm
    activation: Activation = "none"
    transposed: bool = False
    first: int = 0
    classes: int = 1
    objectness: bool = False
    background: int | None = None
    labelled: str | int | None = None
    grid: tuple[int, int] | None = None

    def decode(self, outputs: Outputs, samples: int) -> list[Detections]:
        """All boxes of each sample, with their best class."""
        boxes, scores = (_joined(outputs, names, samples) for names in (self.boxes, self.scores))
        labels: list[NDArray[np.generic] | None] = [None] * len(boxes)
        if isinstance(self.labelled, str):
            labels = list(per_sample(outputs[self.labelled], samples))
        return [self._decode(*entry) for entry in zip(boxes, scores, labels, strict=True)]

    def _decode(
        self,
        table: Array64,
        ranks: Array64,
        labels: NDArray[np.generic] | None,
    ) -> Detections:
        if self.transposed:
            table, ranks = table.T, ranks.T
        # Of outputs without a batch axis a single box has lost its row.
        table = table.reshape(-1, table.shape[-1])
        ranks = ranks.reshape(len(table), -1)
        if isinstance(self.labelled, int):
            labels = ranks[:, self.labelled]
        ranks = _activated(ranks[:, self.first : self.first + self.classes], self.activation)
        if self.objectness:
            ranks = ranks[:, :1] * ranks[:, 1:]
        if self.background is not None:
            ranks[:, self.background] = 0
        best = ranks.argmax(axis=1) if labels is None else labels.reshape(-1).astype(np.int64)
        table = table if self.form == "sides" else table[:, :4]
        return Detections(self._corners(table), ranks.max(axis=1), best.astype(np.int64))

    def _corners(self, boxes: Array64) -> Array64:
        if self.form == "corners":
            return boxes
        apart = _APART * np.arange(len(boxes))[:, None]
        if self.form == "sides":
            # Distances of the four sides, each the mean of a distribution (Li et al. 2020).
            bins = _activated(boxes.reshape(4 * len(boxes), -1), "softmax")
            sides = (bins @ np.arange(bins.shape[1])).reshape(-1, 4)
            return np.asarray(sides * np.array([-1, -1, 1, 1]) + apart)
        center, size = boxes[:, :2], boxes[:, 2:]
        if self.form == "grid":
            assert self.grid is not None
            cells, strides = _grid(self.grid)
            center = (center + cells) * strides
            size = np.exp(np.clip(size, -20, 20)) * strides
        elif self.form == "offsets":
            near, scale = _SSD_VARIANCES
            center = center * near + apart
            size = np.exp(np.clip(size * scale, -20, 20))
        return np.concatenate([center - size / 2, center + size / 2], axis=1)


#: Recognizes a layout; None if the outputs are of another.
Rule = Callable[[Observation], DetectionLayout | None]


def find_layout(observed: Observation) -> DetectionLayout | None:
    """Recognize the layout of a detector; None if the outputs are not those of one."""
    for rule in RULES:
        if (layout := rule(observed)) is not None:
            return layout
    return None


def _yolo(observed: Observation) -> DetectionLayout | None:
    """YOLOv5, YOLOv8 and YOLOX: one output with boxes and scores of every anchor."""
    for output in _tables(observed):
        rows = output.values
        transposed = rows.shape[1] < rows.shape[2]
        rows = rows.transpose(0, 2, 1) if transposed else rows
        anchors, width = rows.shape[1:]
        if anchors < _MIN_ANCHORS or not 5 <= width <= anchors:
            continue
        inside = (rows.min(axis=(0, 1)) >= 0) & (rows.max(axis=(0, 1)) <= 1)
        classes = int(np.argmin(inside[4:])) if not inside[4:].all() else width - 4
        if classes == 0 or inside[:4].all() or rows[..., :4].max() <= 1:
            continue
        if not (_is_sparse(rows[..., 4 : 4 + classes]) or _is_sparse(rows[..., 4:5])):
            continue
        form: BoxForm = _form(rows[..., :4].reshape(-1, 4))
        grid = _yolox_grid(observed, anchors)
        if grid is not None and np.abs(rows[..., :4]).max() < min(grid) / 4:
            form = "grid"
        objectness = form == "grid" or (not transposed and _has_objectness(rows[..., 4:]))
        name = "YOLOX" if form == "grid" else "YOLOv5" if objectness else "YOLOv8"
        return DetectionLayout(
            name=name,
            boxes=(output.name,),
            scores=(output.name,),
            form=form,
            transposed=transposed,
            first=4,
            classes=classes,
            objectness=objectness and classes > 1,
            grid=grid if form == "grid" else None,
        )
    return None


def _ranked(observed: Observation) -> DetectionLayout | None:
    """YOLOv10 and exports with suppression: `[n, k, 6]`, box, score and class, best first."""
    for output in _tables(observed):
        rows = output.values
        if rows.shape[2] != 6 or len(rows) == 0:
            continue
        form = _form(rows[..., :4].reshape(-1, 4))
        for score, label in ((4, 5), (5, 4)):
            scores, labels = rows[..., score], rows[..., label]
            ranked = bool((np.diff(scores, axis=1) <= 1e-3).all() and scores.min() >= 0)
            whole = bool(np.array_equal(labels, labels.round()) and labels.min() >= -1)
            if form == "corners" and ranked and whole and scores.max() <= 1 and np.ptp(scores) > 0:
                return DetectionLayout(
                    name="YOLOv10",
                    boxes=(output.name,),
                    scores=(output.name,),
                    form=form,
                    first=score,
                    labelled=label,
                )
    return None


def _paired(observed: Observation) -> DetectionLayout | None:
    """SSD and DETR: one output of boxes, one of scores, maybe one of classes."""
    outputs = [o for o in observed.outputs.values() if o.arrays[0].size]
    for boxes in outputs:
        shape = boxes.shape
        if not boxes.is_float or boxes.rank not in (2, 3) or shape[-1] != 4:
            continue
        if boxes.rank == 2 and max(boxes.samples) > 1:
            continue  # values of each sample, not the boxes of one
        lead = shape[:-1]
        tables = [o for o in outputs if o.is_float and o.rank == boxes.rank and o is not boxes]
        if scores := next((o for o in tables if o.shape[:-1] == lead and o.shape[-1] != 4), None):
            values = scores.values.reshape(-1, scores.shape[-1])
            return _paired_layout(boxes, scores, values)
        rows = [o for o in outputs if o.shape == lead]
        scores = next((o for o in rows if o.is_float and o.in_unit_interval), None)
        labels = next((o for o in rows if o is not scores), None)
        if scores is not None:
            form = _form(boxes.values.reshape(-1, 4))
            label = None if labels is None else labels.name
            return DetectionLayout("SSD", (boxes.name,), (scores.name,), form, labelled=label)
    return None


def _levels(observed: Observation) -> DetectionLayout | None:
    """PicoDet: scores and distributions of the sides, for each stride."""
    boxes: list[str] = []
    scores: list[str] = []
    tables = list(_tables(observed))
    for ranks in (o for o in tables if o.in_unit_interval):
        sides = [o for o in tables if o.shape[:2] == ranks.shape[:2] and _is_sides(o)]
        if len(sides) == 1 and _is_sparse(ranks.values):
            boxes.append(sides[0].name)
            scores.append(ranks.name)
    if len(boxes) < 2 or len(set(boxes)) < len(boxes):
        return None
    width = observed.outputs[scores[0]].shape[2]
    return DetectionLayout("PicoDet", tuple(boxes), tuple(scores), "sides", classes=width)


def _is_sides(output: ObservedOutput) -> bool:
    width = output.shape[2]
    return not output.in_unit_interval and width % 4 == 0 and width >= 4 * _MIN_BINS


def _paired_layout(
    boxes: ObservedOutput, scores: ObservedOutput, values: Array64
) -> DetectionLayout | None:
    width = values.shape[1]
    activation: Activation = "none"
    background: int | None = None
    if not scores.in_unit_interval:
        # A focal loss starts at a probability of 1% (Lin et al. 2017): logits far below zero.
        activation = "sigmoid" if width == 1 or values.mean(axis=0).max() < -2 else "softmax"
    if activation == "softmax" or (width > 1 and scores.sums_to_one(scores.rank - 1)):
        mean = _activated(values, activation).mean(axis=0)
        background = int(mean.argmax())
        if background not in (0, width - 1) or width < 2:
            return None
    form = _form(boxes.values.reshape(-1, 4))
    name = "SSD" if background == 0 or form == "offsets" else "DETR"
    return DetectionLayout(
        name, (boxes.name,), (scores.name,), form, activation, classes=width, background=background
    )


#: Rules by decreasing certainty.
RULES: tuple[Rule, ...] = (_ranked, _paired, _levels, _yolo)


def _joined(outputs: Outputs, names: tuple[str, ...], samples: int) -> list[Array64]:
    """The rows of some outputs one after the other, by sample."""
    parts = [
        [np.atleast_1d(finite(one)) for one in per_sample(outputs[name], samples)] for name in names
    ]
    return [np.concatenate(entry) for entry in zip(*parts, strict=True)]


def _tables(observed: Observation) -> Iterator[ObservedOutput]:
    for output in observed.floats:
        if output.rank == 3 and output.batch_axis == 0:
            yield output


def _is_sparse(scores: Array64) -> bool:
    """Tell whether few anchors see an object, and scores are not probabilities of all classes."""
    best = scores.max(axis=2)
    if np.ptp(best) == 0:
        return False
    sums = scores.sum(axis=2)
    return bool(np.median(best) < 0.5 or (best < 0.5).mean() > 0.5) and bool(
        scores.shape[2] == 1 or np.abs(sums - 1).max() > 0.01
    )


def _has_objectness(scores: Array64) -> bool:
    """Tell whether the first column is objectness: no class is certain where it is low.

    Classes are trained on anchors with an object only, so that elsewhere they take any value;
    without objectness they are near zero there.
    """
    if scores.shape[2] < 2:
        return False
    empty = scores[..., 0] < 0.05
    classes = scores[..., 1:].max(axis=2)
    return bool(empty.any() and classes[empty].mean() > 0.1)


def _form(boxes: Array64) -> BoxForm:
    """Form of boxes by the order of their values."""
    if ((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])).mean() >= _MOST:
        return "corners"
    return "center" if (boxes[:, 2:] >= 0).mean() >= _MOST else "offsets"


def _yolox_grid(observed: Observation, anchors: int) -> tuple[int, int] | None:
    """Size of the pictures if their grids of strides 8, 16 and 32 have so many cells."""
    size = observed.image_size
    if size is None or any(side % _STRIDES[-1] for side in size):
        return None
    return size if sum((size[0] // s) * (size[1] // s) for s in _STRIDES) == anchors else None


def _grid(size: tuple[int, int]) -> tuple[Array64, Array64]:
    """Column and row of every cell, float64[anchors, 2], and its stride, float64[anchors, 1]."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(strides).astype(np.float64)


def _activated(scores: Array64, activation: Activation) -> Array64:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(scores, -50, 50)))
    if activation == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return scores.copy()
