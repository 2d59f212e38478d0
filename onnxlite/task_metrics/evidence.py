"""Evidence in values: class scores, embeddings and measured quantities look alike in shape.

Each function takes the values of a vector output, `float64[n, width]`, and returns what shows
that the output is of that kind, or None.

- Probabilities are in 0..1 and sum to 1; log-probabilities are their logarithms.
- Cross-entropy moves no logit without moving the others the other way, so that the sum of a
  trained classifier's logits varies less than independent values would.
- An embedding has unit length, or comes from a normalization, or has a width that is a multiple
  of 32 and no value that stands out.
- Measured quantities (positions, angles) differ more between columns than between samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlite.task_metrics.observation import ObservedOutput

Array64 = NDArray[np.float64]

#: Vectors of fewer values have no direction worth comparing.
MIN_EMBEDDING_WIDTH = 8
#: Embeddings of layers without normalization have at least so many values.
_MIN_PLAIN_WIDTH = 64
#: Samples below which values say nothing about the variation between samples.
_MIN_SAMPLES = 4
#: Classes from which on a layer without further evidence is taken for a classifier.
_MANY_CLASSES = 10
#: Distance from the largest value to the second over the range of the others.
_CLEAR_GAP = 2.0
_NORM_TOLERANCE = 0.01
#: Mean probability of the top class of a softmax, above which one value stands out.
_STANDS_OUT = 0.3


def class_evidence(output: ObservedOutput, values: Array64, axis: int = 1) -> str | None:
    """Evidence that the values along an axis are scores of classes that exclude each other."""
    if values.shape[axis] < 2:
        return None
    if output.sums_to_one(axis):
        return "probabilities that sum to 1"
    if output.source.kind != "linear" or embedding_evidence(output, np.moveaxis(values, axis, -1)):
        return None
    if values.ndim > 2:
        values = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    elif _is_measured(values):
        return None
    if _sum_ratio(values) < 0.5:
        return "logits: their sum varies less than independent values"
    if _one_stands_out(values):
        return "logits: one stands out in each sample"
    if values.shape[1] >= _MANY_CLASSES:
        return "logits of a linear layer"
    return None


def embedding_evidence(output: ObservedOutput, values: Array64) -> str | None:
    """Evidence that every row is a vector of which the direction matters."""
    width = values.shape[-1]
    rows = values.reshape(-1, width)
    if width < MIN_EMBEDDING_WIDTH or output.sums_to_one(values.ndim - 1):
        return None
    norms = np.linalg.norm(rows, axis=1)
    if norms.min(initial=np.inf) > 0 and np.abs(norms - 1).max() < _NORM_TOLERANCE:
        return "vectors of unit length"
    if output.source.kind == "normalization":
        return "vectors of a normalization"
    if output.in_unit_interval:
        return None
    if output.source.kind == "other":
        return "vectors of no linear layer"
    if width >= _MIN_PLAIN_WIDTH and width % 32 == 0 and _top_probability(rows) < _STANDS_OUT:
        return f"vectors of {width} values, none of which stands out"
    return None


def _top_probability(rows: Array64) -> float:
    shifted = rows - rows.max(axis=1, keepdims=True)
    return float((1 / np.exp(shifted).sum(axis=1)).mean())


def _is_measured(values: Array64) -> bool:
    """Tell whether the top class never changes because the columns have ranges of their own."""
    samples, width = values.shape
    if samples < _MIN_SAMPLES or width < 3 or len(np.unique(values.argmax(axis=1))) > 1:
        return False
    one_sign = values.min() >= 0 or values.max() <= 0
    between, within = values.mean(axis=0).var(), values.var(axis=0).mean()
    return bool(one_sign or between > 4 * within) and _sum_ratio(values) > 0.5


def _one_stands_out(values: Array64) -> bool:
    """Tell whether the largest value is far above the others, which are close to each other.

    Angles and positions are spread evenly instead.
    """
    if values.shape[1] < 3 or len(np.unique(values.argmax(axis=1))) < 2:
        return False
    ordered = np.sort(values, axis=1)
    gap, rest = ordered[:, -1] - ordered[:, -2], ordered[:, -2] - ordered[:, 0]
    return bool(np.median(gap / np.maximum(rest, 1e-300 + 1e-30 * gap)) > _CLEAR_GAP)


def _sum_ratio(values: Array64) -> float:
    """Variance of the row sums over the sum of the column variances: 1 if independent."""
    columns = float(values.var(axis=0).sum())
    if len(values) < _MIN_SAMPLES or columns <= 0:
        return 1.0
    return float(values.sum(axis=1).var()) / columns
