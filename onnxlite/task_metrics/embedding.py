"""Embeddings: direction of each vector, and order of the nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from onnxlite.task_metrics.evidence import embedding_evidence
from onnxlite.task_metrics.observation import Observation, ObservedOutput

Array64 = NDArray[np.float64]

#: Samples of which neighbours are looked for.
_MAX_NEIGHBOURS = 4096
#: Fewer samples have no order.
_MIN_SAMPLES = 3
_ROWS_AT_A_TIME = 256
_MAX_WIDTH = 8192


@dataclass(frozen=True)
class Embedding(TaskMetric):
    """Direction and neighbours of vectors.

    The loss of a sample is the larger of two: 1 - cosine similarity with the reference's vector;
    and the fraction of the other samples that have come before its nearest neighbour. The second
    sees what the cosine does not: vectors of a narrow cone have a cosine near 1 whatever they
    mean. A sample of several vectors (one per token) has the mean of their cosines, and the
    neighbours of their mean.

    Attributes:
        output: its name.
    """

    name: ClassVar[str] = "embedding"
    meaning: ClassVar[str] = (
        "cosine to the original's vector is 0.99, or the nearest neighbour of a sample falls "
        "behind one of 100 others"
    )
    joint: ClassVar[bool] = True

    output: str

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to the output with a vector per sample, else with one per token."""
        floats = [o for o in observed.floats if o.rank in ((2, 3) if strict else (2, 3, 4))]
        for output in sorted(floats, key=lambda o: o.rank):
            width = output.shape[-1] if output.rank else 0
            evidence = _evidence(output, observed) if 1 < width <= _MAX_WIDTH else None
            if evidence or (not strict and width > 1):
                text = f"{output}, {evidence}" if evidence else str(output)
                return Proposal(cls(output.name), f"{text}: cosine and nearest neighbours")
        return None

    def decode(self, outputs: Outputs, samples: int) -> list[Array64]:
        """Vectors of each sample, float64[vectors, width]."""
        found = per_sample(outputs[self.output], samples)
        return [finite(one).reshape(-1, one.shape[-1]) for one in found]

    def losses(self, reference: Sequence[Array64], candidate: Sequence[Array64]) -> SampleLosses:
        """The larger loss of direction and neighbours."""
        cosines = np.array([_cosine(*p) for p in zip(reference, candidate, strict=True)])
        one, two = (
            _unit(np.stack([v.mean(axis=0) for v in side])) for side in (reference, candidate)
        )
        passed = overtaken(one, two)
        ones = np.ones(len(cosines))
        return SampleLosses(
            SampleRatio(np.maximum(1 - cosines, passed), ones),
            figures={
                "cosine": SampleRatio(cosines, ones),
                "neighbours": SampleRatio(1 - passed, ones),
            },
        )


def overtaken(reference: Array64, candidate: Array64) -> Array64:
    """Fraction of other samples that pass the nearest neighbour of each sample.

    Args:
        reference: unit vectors, float64[samples, width].
        candidate: those of the same samples; ties count half.

    Returns:
        0 where the nearest neighbour stays, to 1; float64[samples].
    """
    count = min(len(reference), _MAX_NEIGHBOURS)
    passed = np.zeros(len(reference))
    if count < _MIN_SAMPLES:
        return passed
    reference, candidate = reference[:count], candidate[:count]
    for start in range(0, count, _ROWS_AT_A_TIME):
        rows = np.arange(start, min(start + _ROWS_AT_A_TIME, count))
        old, new = reference[rows] @ reference.T, candidate[rows] @ candidate.T
        here = np.arange(len(rows))
        old[here, rows] = -np.inf
        nearest = old.argmax(axis=1)
        limit, now = old[here, nearest][:, None], new[here, nearest][:, None]
        # What was as near as the nearest has not passed it.
        behind = old < limit - 1e-9
        behind[here, rows] = False
        ahead = (new > now + 1e-12) + 0.5 * (np.abs(new - now) <= 1e-12)
        passed[rows] = (behind * ahead).sum(axis=1) / (count - 2)
    return passed


def _evidence(output: ObservedOutput, observed: Observation) -> str | None:
    counts, width = observed.token_counts, output.shape[-1]
    if output.rank == 2 and width in counts:
        return None  # a value per token
    if output.rank == 3 and (output.values.shape[1] not in counts or width % 32):
        return None
    return embedding_evidence(output, output.values)


def _unit(vectors: Array64) -> Array64:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array64 = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def _cosine(one: Array64, two: Array64) -> float:
    if one.shape != two.shape:
        return 0.0
    cosines = (_unit(one) * _unit(two)).sum(axis=1)
    # Two zero vectors point the same way.
    return float(np.where((one == two).all(axis=1), 1.0, cosines).mean())
