"""Task metrics: the loss of a candidate in terms of what the model is for.

    observe        real outputs on some feeds, and the operators that compute them
    choose_metric  name, object or function to a fitted metric; or the proposal, with its reason
    ProposedRun    a metric that is chosen on the first feeds of a comparison
    MetricRun      decodes the outputs of both models, and compares them sample by sample

A further metric is a `TaskMetric` in a file of its own, and one entry in `table.METRICS`.
"""

from __future__ import annotations

from onnxlite.task_metrics.base import (
    MetricRun,
    Proposal,
    SampleLosses,
    SampleRatio,
    TaskMetric,
)
from onnxlite.task_metrics.classes import Accuracy, Agreement, ClassHead
from onnxlite.task_metrics.detection import Decoder, Detection
from onnxlite.task_metrics.detection_layouts import DetectionLayout
from onnxlite.task_metrics.embedding import Embedding
from onnxlite.task_metrics.observation import (
    MAX_OBSERVED,
    Observation,
    observe,
    observe_model,
    tensors,
)
from onnxlite.task_metrics.proposed_run import MetricPair, ProposedRun
from onnxlite.task_metrics.segmentation import Segmentation
from onnxlite.task_metrics.sequences import Ctc, Tokens
from onnxlite.task_metrics.table import (
    METRICS,
    ChosenMetric,
    MetricLike,
    MetricName,
    choose_metric,
    needs_real_lengths,
)
from onnxlite.task_metrics.user_function import MetricFunction, UserFunction
from onnxlite.task_metrics.values import Cosine, MaxError, Regression, Sqnr

__all__ = [
    "MAX_OBSERVED",
    "METRICS",
    "Accuracy",
    "Agreement",
    "ChosenMetric",
    "ClassHead",
    "Cosine",
    "Ctc",
    "Decoder",
    "Detection",
    "DetectionLayout",
    "Embedding",
    "MaxError",
    "MetricFunction",
    "MetricLike",
    "MetricName",
    "MetricPair",
    "MetricRun",
    "Observation",
    "Proposal",
    "ProposedRun",
    "Regression",
    "SampleLosses",
    "SampleRatio",
    "Segmentation",
    "Sqnr",
    "TaskMetric",
    "Tokens",
    "UserFunction",
    "choose_metric",
    "needs_real_lengths",
    "observe",
    "observe_model",
    "tensors",
]
