"""Table of the task metrics, and choice of the one that fits a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from onnxlite.errors import OptionError
from onnxlite.task_metrics.base import TaskMetric
from onnxlite.task_metrics.classes import Accuracy, Agreement
from onnxlite.task_metrics.detection import Detection
from onnxlite.task_metrics.embedding import Embedding
from onnxlite.task_metrics.observation import Observation
from onnxlite.task_metrics.segmentation import Segmentation
from onnxlite.task_metrics.sequences import Ctc, Tokens
from onnxlite.task_metrics.user_function import MetricFunction, UserFunction
from onnxlite.task_metrics.values import Cosine, MaxError, Regression, Sqnr

MetricName = Literal[
    "accuracy",
    "agreement",
    "cosine",
    "ctc",
    "detection",
    "embedding",
    "max-error",
    "regression",
    "segmentation",
    "sqnr",
    "tokens",
]
#: What `metric=` takes: a name, a fitted metric, or a function of the outputs.
MetricLike: TypeAlias = MetricName | TaskMetric | MetricFunction

#: Metrics that are proposed, in this order: the first that fits is taken.
_PROPOSED: tuple[type[TaskMetric], ...] = (
    Detection,
    Ctc,
    Segmentation,
    Embedding,
    Agreement,
    Tokens,
    Regression,
    Sqnr,
)
_ALL: tuple[type[TaskMetric], ...] = (Accuracy, *_PROPOSED, Cosine, MaxError)
#: Every metric by its name.
METRICS: Mapping[str, type[TaskMetric]] = MappingProxyType({one.name: one for one in _ALL})


@dataclass(frozen=True)
class ChosenMetric:
    """A metric and the reason for it.

    Attributes:
        metric: fitted to the outputs of the model.
        reason: why it is that one.
    """

    metric: TaskMetric
    reason: str

    @property
    def name(self) -> str:
        """Name in reports: that of a function is its own."""
        return self.metric.title if isinstance(self.metric, UserFunction) else self.metric.name


def choose_metric(
    metric: MetricLike | None, observe: Callable[[], Observation], *, labelled: bool
) -> ChosenMetric:
    """Fit the metric that was asked for, or propose the one that fits the outputs.

    Args:
        metric: what was asked for; None is accuracy with labels, and else proposes.
        observe: outputs of the reference on some feeds; not called for fitted metrics and
            functions.
        labelled: there is one label per sample, which calls for accuracy.

    Raises:
        OptionError: an unknown name, accuracy without labels, or outputs that the metric cannot
            read.
    """
    if isinstance(metric, TaskMetric):
        return ChosenMetric(metric, "given")
    if callable(metric):
        return ChosenMetric(UserFunction(metric), "given")
    if metric is not None or labelled:
        return _fitted(metric or "accuracy", observe, labelled=labelled)
    observed = observe()
    if (chosen := propose_metric(observed)) is not None:
        return chosen
    shapes = [str(output) for output in observed.outputs.values()]
    raise OptionError(f"no metric fits the outputs ({'; '.join(shapes)}): give a function")


def needs_real_lengths(metric: MetricLike | None, *, labelled: bool) -> bool:
    """Tell whether a metric is of the lengths that a model really gives (`tied_lengths`).

    Labels are, and a function of the user's.
    """
    return labelled or isinstance(metric, UserFunction) or callable(metric)


def propose_metric(observed: Observation) -> ChosenMetric | None:
    """Propose the metric that fits the outputs best; None if they hold no numbers."""
    for kind in _PROPOSED:
        if proposal := kind.propose(observed, strict=True):
            return ChosenMetric(proposal.metric, proposal.reason)
    return None


def _fitted(name: str, observe: Callable[[], Observation], *, labelled: bool) -> ChosenMetric:
    if name not in METRICS:
        known = ", ".join(sorted(METRICS))
        raise OptionError(f"there is no metric {name!r}: give one of {known}, or a function")
    if name == Accuracy.name and not labelled:
        raise OptionError("accuracy needs labels: give one class per sample")
    observed = observe()
    proposal = METRICS[name].propose(observed, strict=False)
    if proposal is None:
        shapes = "; ".join(str(output) for output in observed.outputs.values())
        advice = ", or give a decoder: Detection(decoder)" if name == Detection.name else ""
        raise OptionError(
            f"the outputs do not fit the metric {name!r} ({shapes}): choose another one{advice}"
        )
    return ChosenMetric(proposal.metric, proposal.reason)
