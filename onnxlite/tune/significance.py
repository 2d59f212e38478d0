"""Whether a tuned model is better in ONNX Runtime, by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.runtime import Session
from onnxlite.tune.dataset import Row, batches
from onnxlite.tune.losses import Loss
from onnxlite.tune.torch_graph import torch_feed

#: Of the normal distribution, one-sided 95%; and rows that a deviation is estimated from.
_CERTAIN, _ROWS_TO_TELL = 1.64, 8


def losses_of(
    model: ir.Model, loss: Loss, held: Sequence[Row], *, apart: bool, size: int, threads: int | None
) -> NDArray[np.float64]:
    """The loss of a model in ONNX Runtime on each row; of a caller's own function, one for all.

    Args:
        model: is run.
        loss: of the outputs.
        held: rows that nothing was trained on.
        apart: whether they are single samples.
        size: rows at a time for a caller's own function, which may compare them.
        threads: of ONNX Runtime.
    """
    session = Session(model, threads=threads)
    found, counts = [], []
    for parts in batches(held, 1 if loss.custom is None else size, apart):
        for part in parts:
            given = torch_feed(session.run({k: v.numpy() for k, v in part.feed.items()}))
            found.append(float(loss.of_outputs(given, part.answers, part.labels)))
            counts.append(next(iter(part.feed.values())).shape[0] if apart else 1)
    if loss.custom is not None:
        return np.array([np.average(found, weights=counts)])
    return np.array(found)


def by_chance(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """How much lower a loss may be where nothing was gained: rounding falls another way.

    The standard error of the mean difference, row by row, times 1.64: one in twenty of what is
    no better would pass. Zero with too few rows to tell.
    """
    differences = before - after
    if len(differences) < _ROWS_TO_TELL:
        return 0.0
    return _CERTAIN * float(differences.std(ddof=1)) / math.sqrt(len(differences))
