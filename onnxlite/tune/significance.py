"""Significance: whether a tuned model is better in ONNX Runtime, by more than chance."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.runtime import Session
from onnxlite.tune.dataset import Dataset
from onnxlite.tune.losses import Loss
from onnxlite.tune.torch_graph import torch_feed

#: Of the normal distribution, one-sided 95%; and rows that a deviation is estimated from.
_QUANTILE, _MIN_ROWS = 1.64, 8
#: A loss must fall by this fraction, and by this much: less is rounding.
_MIN_GAIN, _MIN_DIFFERENCE = 1e-3, 1e-6


def losses_of(
    model: ir.Model, loss: Loss, data: Dataset, *, batch_size: int, threads: int | None
) -> NDArray[np.float64]:
    """Return the loss of a model in ONNX Runtime on each held-out row.

    Args:
        model: is run.
        loss: of the outputs.
        data: of whose held-out rows.
        batch_size: rows at a time for a caller's own loss function, which may compare them.
        threads: of ONNX Runtime.

    Returns:
        float64[rows]; of a caller's own function float64[1], the mean over all.
    """
    session = Session(model, threads=threads)
    found, counts = [], []
    size = 1 if loss.custom is None else batch_size
    for parts in data.batches(data.held_out, size):
        for part in parts:
            outputs = torch_feed(session.run({k: v.numpy() for k, v in part.feed.items()}))
            found.append(float(loss.of_outputs(outputs, part.answers, part.labels)))
            counts.append(next(iter(part.feed.values())).shape[0] if data.batchable else 1)
    if loss.custom is not None:
        return np.array([np.average(found, weights=counts)])
    return np.array(found)


def gained(before: float, after: float) -> bool:
    """Tell whether a loss is lower by more than rounding."""
    return after < before - max(_MIN_GAIN * abs(before), _MIN_DIFFERENCE)


def chance_of(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return how much lower a loss may be by chance: integers that fall another way.

    It is the standard error of the mean difference, row by row, times 1.64: one in twenty of
    what is no better would pass. Zero with too few rows to estimate it.
    """
    differences = before - after
    if len(differences) < _MIN_ROWS:
        return 0.0
    return _QUANTILE * float(differences.std(ddof=1)) / math.sqrt(len(differences))
