"""The one number that a budget's `max_drop` is about, and how it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError
from onnxlite.ops import holds_scores

#: Metrics that need no code: the share of samples whose top class stays that of the original,
#: or is the label; mean cosine similarity; 1 - noise / signal; 1 - largest error / peak.
BuiltIn = Literal["agreement", "accuracy", "cosine", "sqnr", "max-error"]
#: A task metric, higher is better: a model's outputs by name, samples along the first axis,
#: and with labels also these, to one number, or to one number per sample, whose mean counts
#: and which has a confidence interval.
Scoring: TypeAlias = Callable[..., float | NDArray[Any]]
MetricLike: TypeAlias = BuiltIn | Scoring

_BUILT_IN = ("agreement", "accuracy", "cosine", "sqnr", "max-error")
#: Fewer values than these have no direction worth comparing.
_DIRECTION = 8


def choose_metric(
    metric: MetricLike | None, model: ir.Model, *, labelled: bool
) -> tuple[MetricLike, str]:
    """The metric and why it is that one.

    Without a choice: accuracy where there are labels, agreement where an output holds class
    scores, cosine where one holds a vector per sample, else the noise of all outputs.

    Raises:
        OptionError: an unknown name, or accuracy without labels.
    """
    if callable(metric):
        return metric, "given"
    if metric is not None:
        if metric not in _BUILT_IN:
            raise OptionError(f"there is no metric {metric!r}: {', '.join(_BUILT_IN)}, or code")
        if metric == "accuracy" and not labelled:
            raise OptionError("accuracy needs labels: give one class per sample")
        return metric, "given"
    if labelled:
        return "accuracy", "there are labels"
    if names := class_outputs(model):
        return "agreement", f"{', '.join(map(repr, names))} holds class scores"
    floats = [v for v in model.graph.outputs if v.dtype is not None and v.dtype.is_floating_point()]
    if floats and all(_is_vector(value) for value in floats):
        return "cosine", "every sample gives a vector"
    return "sqnr", "no output holds class scores"


def class_outputs(model: ir.Model) -> list[str]:
    """Names of the outputs that hold class scores."""
    return [value.name or "" for value in model.graph.outputs if holds_scores(value)]


def metric_name(metric: MetricLike) -> str:
    """How reports call a metric."""
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "__name__", "metric")).replace("<lambda>", "metric")


def scored(
    metric: Scoring, outputs: dict[str, NDArray[Any]], labels: NDArray[Any] | None
) -> float | NDArray[np.float64]:
    """Call a task metric; what comes back is a number, or a number per sample.

    Raises:
        OptionError: it gives something else.
    """
    result = metric(outputs) if labels is None else metric(outputs, labels)
    array = np.asarray(result)
    if array.ndim == 0 and array.dtype.kind in "fiub":
        return float(array)
    if array.ndim == 1 and array.dtype.kind in "fiub" and array.size:
        return array.astype(np.float64)
    raise OptionError(
        f"the metric gave {type(result).__name__} of shape {list(array.shape)}: it must give a "
        "number, or one number per sample"
    )


def _is_vector(value: ir.Value) -> bool:
    if value.shape is None or not len(value.shape):
        return False
    width = value.shape[-1]
    return not isinstance(width, int) or width >= _DIRECTION
