"""Classes: accuracy against labels, and agreement with the reference's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import (
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
    finite,
    per_sample,
)
from onnxlite.task_metrics.evidence import class_evidence, embedding_evidence
from onnxlite.task_metrics.observation import Observation, ObservedOutput

#: Class of scores that are all the same.
_NO_CLASS = -1
_UNITS = {2: "sample", 3: "token", 4: "pixel"}


@dataclass(frozen=True)
class ClassHead:
    """Rule that makes classes of an output.

    Attributes:
        output: its name.
        kind: `"top"`: the largest score along an axis; `"threshold"`: every score above 0.5;
            `"class"`: the output holds classes.
        axis: of the scores, where the samples are axis 0.
        batch_axis: of the samples.
    """

    output: str
    kind: Literal["top", "threshold", "class"]
    axis: int = 1
    batch_axis: int = 0

    def decode(self, outputs: Outputs, samples: int) -> list[NDArray[Any]]:
        """Classes of each sample: one, or one per position.

        Scores that are all the same have no class: that of zeroed scores agrees with none.
        """
        array = outputs[self.output]
        if self.kind == "class":
            return [np.atleast_1d(one) for one in per_sample(array, samples)]
        found = []
        for one in per_sample(array, samples, self.batch_axis):
            scores = finite(one)
            if self.kind == "threshold":
                found.append(np.atleast_1d(scores > 0.5).reshape(-1))
                continue
            axis = self.axis - 1
            if not scores.size:
                found.append(np.full(1, _NO_CLASS))
                continue
            varied = scores.max(axis) > scores.min(axis)
            found.append(np.atleast_1d(np.where(varied, scores.argmax(axis), _NO_CLASS)))
        return found


@dataclass(frozen=True)
class Agreement(TaskMetric):
    """Agreement of classes: per sample, per token or per pixel, whatever has one class.

    Several labels per sample (scores in 0..1 without a sum) agree in the Jaccard index: labels
    that both give, of all that one of them gives.

    Attributes:
        heads: one per output with classes.
    """

    name: ClassVar[str] = "agreement"
    meaning: ClassVar[str] = (
        "one of 100 samples (tokens, pixels) gets another class than from the original"
    )

    heads: tuple[ClassHead, ...]

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to all outputs with classes of one rank."""
        found = [p for o in observed.outputs.values() if (p := _head(o, observed, strict=strict))]
        if not found:
            return None
        first = found[0]
        chosen = [p for p in found if p[1] == first[1]]
        names = f" and {len(chosen) - 1} more like it" if len(chosen) > 1 else ""
        metric = cls(tuple(head for head, _, _ in chosen))
        return Proposal(metric, f"{first[2]}{names}: {first[1]}{_constant(metric, observed)}")

    def decode(self, outputs: Outputs, samples: int) -> list[list[NDArray[Any]]]:
        """Classes of every head, by sample."""
        heads = [head.decode(outputs, samples) for head in self.heads]
        return [list(entries) for entries in zip(*heads, strict=False)]

    def losses(
        self, reference: Sequence[list[NDArray[Any]]], candidate: Sequence[list[NDArray[Any]]]
    ) -> SampleLosses:
        """Positions whose class changed, of all positions."""
        lost, all_ = np.zeros(len(reference)), np.zeros(len(reference))
        for index, pair in enumerate(zip(reference, candidate, strict=True)):
            for one, two in zip(*pair, strict=True):
                if one.shape != two.shape:
                    lost[index] += max(one.size, two.size)
                    all_[index] += max(one.size, two.size)
                    continue
                lost[index] += np.count_nonzero(one != two)
                several = one.dtype == bool and one.size > 1
                all_[index] += np.count_nonzero(one | two) if several else one.size
        return SampleLosses(SampleRatio(lost, all_))


@dataclass(frozen=True)
class Accuracy(TaskMetric):
    """Fraction of samples that have their label.

    Attributes:
        head: rule of the classes.
        labels: one class per sample.
    """

    name: ClassVar[str] = "accuracy"
    meaning: ClassVar[str] = "of 100 samples one more is wrong than with the original"
    joint: ClassVar[bool] = True

    head: ClassHead
    labels: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def propose(cls, observed: Observation, *, strict: bool) -> Proposal | None:
        """Fit to the first output with one class per sample."""
        del strict
        for output in observed.outputs.values():
            if output.is_integer and output.rank == 1:
                return Proposal(cls(ClassHead(output.name, "class")), f"there are labels; {output}")
            if output.is_float and output.rank == 2 and output.shape[1] > 1:
                return Proposal(cls(ClassHead(output.name, "top")), f"there are labels; {output}")
        return None

    def with_labels(self, labels: NDArray[Any] | None) -> Accuracy:
        """Return the metric with labels."""
        return replace(self, labels=labels)

    def decode(self, outputs: Outputs, samples: int) -> list[NDArray[Any]]:
        """Class of every sample."""
        return self.head.decode(outputs, samples)

    def losses(
        self, reference: Sequence[NDArray[Any]], candidate: Sequence[NDArray[Any]]
    ) -> SampleLosses:
        """Samples that the reference gets right and the candidate does not, less the reverse.

        Raises:
            OptionError: there are no labels.
            SamplesError: there is not one label per sample.
        """
        if self.labels is None:
            raise OptionError("accuracy needs labels: give one class per sample")
        labels = np.asarray(self.labels)
        if labels.shape != (len(reference),):
            raise SamplesError(
                f"labels of shape {list(labels.shape)} for {len(reference)} samples: "
                "give one class per sample"
            )
        one, two = (
            (np.concatenate(list(side)) == labels).astype(np.float64)
            for side in (reference, candidate)
        )
        return SampleLosses(SampleRatio(one - two, np.ones(len(one))), reference=one)


def _head(
    output: ObservedOutput, observed: Observation, *, strict: bool
) -> tuple[ClassHead, str, str] | None:
    """Rule for an output, the name of its agreement, and the evidence."""
    if output.is_integer:
        if output not in observed.integers:
            return None
        if output.rank == 1 or (output.rank == 2 and output.shape[1] == 1) or not strict:
            return ClassHead(output.name, "class"), "agreement of classes", str(output)
        return None
    if not output.is_float or output not in observed.floats or output.rank > 4:
        return None
    values, batch = output.values, output.batch_axis or 0
    unit = _UNITS.get(values.ndim, "position")
    if values.ndim == 3 and not observed.token_counts.intersection(values.shape[1:]):
        unit = "step"
    axis = _class_axis(output, observed)
    evidence = None
    if axis is not None:
        evidence = class_evidence(output, values, axis) or _per_token(output, observed, axis)
    if axis is not None and (evidence or not strict) and (values.ndim < 4 or not strict):
        text = f"{output}, {evidence}" if evidence else str(output)
        return ClassHead(output.name, "top", axis, batch), f"top-1 agreement per {unit}", text
    if values.ndim <= 2 and output.in_unit_interval and values.max() > 0.5:
        single = values.ndim == 1 or values.shape[1] == 1
        text = "agreement of decisions" if single else "agreement of the labels of a sample"
        head = ClassHead(output.name, "threshold", batch_axis=batch)
        return head, f"{text} above 0.5", f"{output}, values in 0..1"
    return None


def _per_token(output: ObservedOutput, observed: Observation, axis: int) -> str | None:
    """Evidence of a class per token, where operators behind the last layer hide it."""
    values = output.values
    if values.ndim != 3 or values.shape[3 - axis] not in observed.token_counts:
        return None
    if embedding_evidence(output, np.moveaxis(values, axis, -1)) and values.shape[axis] % 32 == 0:
        return None
    return f"{values.shape[axis]} scores for each token"


def _class_axis(output: ObservedOutput, observed: Observation) -> int | None:
    """Axis of `values` along which the scores of classes lie."""
    values = output.values
    axes = [axis for axis in range(values.ndim - 1, 0, -1) if values.shape[axis] > 1]
    if sums := [axis for axis in axes if output.sums_to_one(axis)]:
        return sums[0]
    if not axes or values.ndim == 2:
        return axes[0] if axes and not (output.in_unit_interval and values.max() > 0.5) else None
    if values.ndim == 4:
        return 1 if 1 in axes else None
    # Positions are as many as the tokens; without tokens there are more of them than classes.
    others = [axis for axis in axes if values.shape[axis] not in observed.token_counts]
    return min(others or axes, key=lambda axis: values.shape[axis])


def _constant(metric: Agreement, observed: Observation) -> str:
    """Warning if all samples have one class, so that a constant output would agree."""
    if observed.samples < 2:
        return ""
    seen: set[int] = set()
    for outputs, samples in observed.runs():
        for entry in metric.decode(outputs, samples):
            seen.update(np.unique(entry[0]).tolist())
            if len(seen) > 1:
                return ""
    return "; all samples looked at have one class, give samples of several"
