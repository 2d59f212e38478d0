"""Metric of a search: the one number that a budget's `max_drop` limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.graph import rank
from onnxlite.ops import output_source

#: Metrics that need no code: fraction of samples whose top class stays that of the original, or
#: is the label; mean cosine similarity; 1 - noise / signal; 1 - largest error / peak.
BuiltIn = Literal["agreement", "accuracy", "cosine", "sqnr", "max-error"]
#: A task metric, higher is better. It takes a model's outputs by name, samples along the first
#: axis, and the labels where there are some. It returns one number, or one number per sample,
#: of which the mean counts and has a confidence interval.
TaskMetric: TypeAlias = Callable[..., float | NDArray[Any]]
MetricLike: TypeAlias = BuiltIn | TaskMetric

#: Vectors of fewer values have no direction worth comparing.
MIN_COSINE_WIDTH = 8


@dataclass(frozen=True)
class ChosenMetric:
    """A metric and the reason for it.

    Attributes:
        metric: built in, or a function.
        reason: why it is that one.
    """

    metric: MetricLike
    reason: str

    @property
    def name(self) -> str:
        """Name in reports."""
        return metric_name(self.metric)

    @property
    def cache_name(self) -> str | None:
        """Name in cache keys; None for a function, which has no lasting digest."""
        return self.metric if isinstance(self.metric, str) else None


def choose_metric(metric: MetricLike | None, model: ir.Model, *, labelled: bool) -> ChosenMetric:
    """Check the metric that was asked for, or choose the one that fits the model.

    Without a request: accuracy where there are labels, agreement where an output holds class
    scores, cosine where one holds a vector per sample, else the noise of all outputs.

    Raises:
        OptionError: an unknown name, or accuracy without labels.
    """
    if callable(metric):
        return ChosenMetric(metric, "given")
    if metric is not None:
        known = get_args(BuiltIn)
        if metric not in known:
            raise OptionError(
                f"there is no metric {metric!r}: give one of {', '.join(known)}, or a function"
            )
        if metric == "accuracy" and not labelled:
            raise OptionError("accuracy needs labels: give one class per sample")
        return ChosenMetric(metric, "given")
    if labelled:
        return ChosenMetric("accuracy", "there are labels")
    if names := class_outputs(model):
        return ChosenMetric("agreement", f"{', '.join(map(repr, names))} holds class scores")
    floats = [v for v in model.graph.outputs if v.dtype is not None and v.dtype.is_floating_point()]
    if floats and all(_is_vector(value) for value in floats):
        return ChosenMetric("cosine", "every sample gives a vector")
    return ChosenMetric("sqnr", "no output holds class scores")


def class_outputs(model: ir.Model) -> list[str]:
    """List the outputs that hold class scores."""
    tables = [value for value in model.graph.outputs if rank(value) in (2, None)]
    kinds = ("probabilities", "linear")
    return [value.name or "" for value in tables if output_source(value).kind in kinds]


def metric_name(metric: MetricLike) -> str:
    """Return the name of a metric for reports."""
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "__name__", "metric")).replace("<lambda>", "metric")


def apply_metric(
    metric: TaskMetric, outputs: dict[str, NDArray[Any]], labels: NDArray[Any] | None
) -> float | NDArray[np.float64]:
    """Call a task metric and check that it returns a number, or a number per sample.

    Raises:
        OptionError: it returns something else.
    """
    result = metric(outputs) if labels is None else metric(outputs, labels)
    array = np.asarray(result)
    if array.ndim == 0 and array.dtype.kind in "fiub":
        return float(array)
    if array.ndim == 1 and array.dtype.kind in "fiub" and array.size:
        return array.astype(np.float64)
    raise OptionError(
        f"the metric returned {type(result).__name__} of shape {list(array.shape)}: it must return "
        "a number, or one number per sample"
    )


def _is_vector(value: ir.Value) -> bool:
    """Tell whether an output holds vectors that have a direction."""
    if value.shape is None or not len(value.shape):
        return False
    width = value.shape[-1]
    return not isinstance(width, int) or width >= MIN_COSINE_WIDTH
