"""Metrics of the user's: a function of the outputs of one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import Proposal, SampleLosses, SampleRatio, TaskMetric
from onnxlite.task_metrics.observation import Observation

#: A function of a model's outputs by name, samples along the first axis, and of the labels where
#: there are some; higher is better. It returns one number, or one number per sample, of which the
#: mean counts and has a confidence interval. For example
#: `lambda outputs: (outputs["logits"].argmax(1) == labels).mean()`.
MetricFunction: TypeAlias = Callable[..., float | NDArray[Any]]


@dataclass(frozen=True)
class UserFunction(TaskMetric):
    """A function of the user's.

    Attributes:
        function: see `MetricFunction`.
        labels: passed to it, if there are any.
    """

    name = "function"
    meaning = "the function's value falls by 0.01"
    joint = True

    function: MetricFunction
    labels: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Propose nothing: a function has to be given."""
        del observed, strict
        return None

    def with_labels(self, labels: NDArray[Any] | None) -> UserFunction:
        """Return the metric with labels."""
        return replace(self, labels=labels)

    def decode(self, outputs: Outputs, samples: int) -> list[Outputs]:
        """All outputs of the feed."""
        del samples
        return [outputs]

    def losses(self, reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> SampleLosses:
        """Value for the reference less that for the candidate.

        Raises:
            OptionError: the function returns no number, or an output has another shape on every
                feed.
        """
        one, two = (self._apply(side) for side in (reference, candidate))
        if one.shape != two.shape:
            one, two = (side.mean(keepdims=True) for side in (one, two))
        return SampleLosses(SampleRatio(one - two, np.ones(len(one))), reference=one)

    @property
    def cache_name(self) -> str | None:
        """None: a function has no lasting digest."""
        return None

    @property
    def title(self) -> str:
        """Name of the function in reports."""
        return str(getattr(self.function, "__name__", "metric")).replace("<lambda>", "metric")

    def _apply(self, parts: Sequence[Outputs]) -> NDArray[np.float64]:
        outputs = _concatenated(parts)
        result = (
            self.function(outputs) if self.labels is None else self.function(outputs, self.labels)
        )
        array = np.asarray(result)
        if array.ndim > 1 or array.dtype.kind not in "fiub" or not array.size:
            raise OptionError(
                f"the metric returned {type(result).__name__} of shape {list(array.shape)}: it "
                "must return a number, or one number per sample"
            )
        return np.atleast_1d(array).astype(np.float64)


def _concatenated(parts: Sequence[Outputs]) -> Outputs:
    """All feeds' outputs as one array each, samples along the first axis."""
    joined: Outputs = {}
    for name in parts[0]:
        try:
            joined[name] = np.concatenate([np.atleast_1d(part[name]) for part in parts])
        except ValueError as error:
            raise OptionError(
                f"output {name!r} has another shape on every feed, so no metric can be computed "
                f"on all of them: {error}; give samples of one size"
            ) from error
    return joined
