"""Interface of a task metric: decode the outputs of a model, and compare sample by sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import VerificationError
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.observation import Observation

Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class SampleRatio:
    """A figure as the ratio of two sums over samples.

    Attributes:
        total: numerator of each sample, float64[samples].
        weight: denominator of each sample, float64[samples].
    """

    total: Array64
    weight: Array64

    @property
    def value(self) -> float | None:
        """The ratio of the sums; None without any weight."""
        weight = float(self.weight.sum())
        return float(self.total.sum()) / weight if weight > 0 else None

    @property
    def is_single(self) -> bool:
        """True for one figure of all samples."""
        return len(self.total) == 1


@dataclass(frozen=True)
class SampleLosses:
    """Loss of a candidate on some samples.

    Attributes:
        drop: loss of each sample; 0 is as good as the reference, and 1 has nothing in common
            with it.
        reference: the reference's own value of the metric; None is 1, as of every metric that
            compares the candidate with the reference.
        figures: further figures by name, for the report.
    """

    drop: SampleRatio
    reference: Array64 | None = None
    figures: Mapping[str, SampleRatio] = field(default_factory=dict)

    @classmethod
    def mean(cls, losses: Array64, **figures: SampleRatio) -> SampleLosses:
        """Losses that all weigh the same."""
        return cls(SampleRatio(losses, np.ones_like(losses)), figures=figures)

    @property
    def reference_value(self) -> float:
        """Value of the metric for the reference."""
        return 1.0 if self.reference is None else float(self.reference.mean())

    @property
    def decided(self) -> bool:
        """False if the reference has nothing on these samples that a candidate could lose."""
        return self.drop.value is not None

    def __str__(self) -> str:
        drop = self.drop.value
        return "undecided" if drop is None else f"{drop:.2%}"


class TaskMetric(ABC):
    """Agreement of a candidate's outputs with the reference's, in terms of a task.

    The value is 1 for the reference itself and 1 - drop for a candidate; metrics with labels
    have values of their own. Instances are frozen dataclasses: their fields are options, and
    the names of the outputs that they read.

    Attributes:
        name: in `metric=`, `--metric` and reports.
        meaning: of a drop of 1%, one sentence.
        joint: `losses` needs all samples at once.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    joint: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit the metric to real outputs.

        Args:
            observed: outputs of the reference on some feeds.
            strict: None unless values and graph show that the outputs are of this task;
                otherwise None only if the metric cannot be computed.
        """

    @abstractmethod
    def decode(self, outputs: Outputs, samples: int) -> Sequence[Any]:
        """Reduce the outputs of one feed to what is compared, an entry per sample."""

    @abstractmethod
    def losses(self, reference: Sequence[Any], candidate: Sequence[Any]) -> SampleLosses:
        """Compare what `decode` gave for both models on the same samples."""

    def finish(self, losses: SampleLosses) -> SampleLosses:
        """Take the drop from the figures of all samples, if it is not a sum over samples."""
        return losses

    def with_labels(self, labels: NDArray[Any] | None) -> TaskMetric:
        """Return the metric with one label per sample, if it takes labels."""
        del labels
        return self

    @property
    def cache_name(self) -> str | None:
        """Name in cache keys: with all options; None if it has no lasting one."""
        return repr(self)


@dataclass(frozen=True)
class Proposal:
    """A metric that fits some outputs.

    Attributes:
        metric: fitted to them.
        reason: the outputs, and what shows that they fit: `"output 'logits' [n, 1000], last
            op Softmax: top-1 agreement"`.
    """

    metric: TaskMetric
    reason: str


class MetricRun:
    """A metric over many feeds; memory grows with the samples of joint metrics only.

    Args:
        metric: what is measured.
    """

    def __init__(self, metric: TaskMetric) -> None:
        self._metric = metric
        self._kept: tuple[list[Any], list[Any]] = ([], [])
        self._parts: list[SampleLosses] = []

    def add(self, reference: Outputs, candidate: Outputs, samples: int) -> None:
        """Add the outputs of both models on one feed.

        Raises:
            VerificationError: the candidate gives another number of samples.
        """
        pair = [self._metric.decode(outputs, samples) for outputs in (reference, candidate)]
        counts = [len(entries) for entries in pair]
        if counts[0] != counts[1]:
            raise VerificationError(
                f"{self._metric.name}: the candidate gives {counts[1]} samples where the reference "
                f"gives {counts[0]}: these models do not compute the same thing"
            )
        if self._metric.joint:
            for kept, entries in zip(self._kept, pair, strict=True):
                kept.extend(entries)
        else:
            self._parts.append(self._metric.losses(*pair))

    def result(self) -> SampleLosses:
        """Losses of all samples so far."""
        if self._metric.joint:
            return self._metric.losses(*self._kept)
        names = dict.fromkeys(name for part in self._parts for name in part.figures)
        figures = {n: _joined([p.figures[n] for p in self._parts]) for n in names}
        drop = _joined([part.drop for part in self._parts])
        return self._metric.finish(SampleLosses(drop, figures=figures))


def per_sample(array: NDArray[Any], samples: int, axis: int = 0) -> list[NDArray[Any]]:
    """Split an output into its samples; without an axis of samples it is one sample."""
    if array.ndim <= axis or array.shape[axis] != samples:
        return [array]
    return list(np.moveaxis(array, axis, 0))


def finite(array: NDArray[Any]) -> Array64:
    """Return an output as float64, with 0 for NaN and infinities."""
    return np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _joined(ratios: Sequence[SampleRatio]) -> SampleRatio:
    return SampleRatio(
        np.concatenate([ratio.total for ratio in ratios]),
        np.concatenate([ratio.weight for ratio in ratios]),
    )
