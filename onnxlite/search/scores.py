"""What each sample says about a candidate: its outputs against the original's, one row each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.evaluate.metrics import predicted_classes
from onnxlite.runtime import Outputs

Array64 = NDArray[np.float64]


class OutputScores:
    """One output's figures per sample.

    Attributes:
        name: of the output.
        signal: sum of squares of the reference's values, float64[samples].
        noise: sum of squares of the difference.
        cosine: cosine similarity.
        largest: largest absolute difference.
        same: 1 where the largest entry is at the same place, or where integers and text are
            equal; else 0.
        width: values per sample.
        broken: values that are finite in one model and NaN or infinite in the other.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.empty(0, np.float64) for _ in range(5)
        )
        self.width = 0
        self.broken = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], samples: int) -> None:
        """Add the output of one feed; what has no axis of samples counts as one sample.

        Raises:
            VerificationError: the shapes or kinds differ.
        """
        if reference.shape != candidate.shape or reference.dtype.kind != candidate.dtype.kind:
            raise VerificationError(
                f"output {self.name!r} is {candidate.dtype}{list(candidate.shape)}, it was "
                f"{reference.dtype}{list(reference.shape)}"
            )
        rows = samples if reference.ndim and len(reference) == samples else 1
        one, two = reference.reshape(rows, -1), candidate.reshape(rows, -1)
        self.width = max(self.width, one.shape[1])
        if reference.dtype.kind not in "fV":
            equal = (one == two).all(axis=1).astype(np.float64)
            self._append(np.ones(rows), 1 - equal, equal, 1 - equal, equal)
            return
        a, b = one.astype(np.float64), two.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        self.broken += int(np.count_nonzero(~finite & ~alike))
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = a - b
        signal, noise = np.square(a).sum(axis=1), np.square(error).sum(axis=1)
        norms = np.sqrt(signal) * np.linalg.norm(b, axis=1)
        # Two zero vectors point the same way; a zero and a non-zero one do not.
        cosine = np.where(noise > 0, 0.0, 1.0)
        np.divide((a * b).sum(axis=1), norms, out=cosine, where=norms > 0)
        same = (a.argmax(axis=1) == b.argmax(axis=1)) if a.shape[1] else np.ones(rows)
        self._append(
            signal, noise, cosine, np.abs(error).max(axis=1, initial=0.0), same.astype(np.float64)
        )

    def _append(self, *parts: Array64) -> None:
        present = (self.signal, self.noise, self.cosine, self.largest, self.same)
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.concatenate([old, new]) for old, new in zip(present, parts, strict=True)
        )


class ClassScores:
    """Whether each sample's class is right, for both models; from outputs that hold classes."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._classes: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Add one feed's outputs."""
        for kept, outputs in zip(self._classes, (reference, candidate), strict=True):
            kept.append(predicted_classes(outputs[self.output]))

    def right(self, labels: NDArray[Any]) -> tuple[Array64, Array64]:
        """1 where a model's class is the label, of the reference and of the candidate."""
        one, two = (np.concatenate(kept) == labels for kept in self._classes)
        return one.astype(np.float64), two.astype(np.float64)
