"""A task metric over feeds, chosen on the first of them."""

from __future__ import annotations

from typing import Any

import msgspec
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.inputs import Feed
from onnxlite.runtime import Outputs
from onnxlite.task_metrics.base import MetricRun
from onnxlite.task_metrics.observation import (
    MAX_OBSERVED,
    MAX_OBSERVED_BYTES,
    observe,
)
from onnxlite.task_metrics.table import (
    ChosenMetric,
    MetricLike,
    choose_metric,
    propose_metric,
)


class MetricPair(msgspec.Struct, frozen=True, kw_only=True):
    """A task metric of both models.

    Attributes:
        name: of the metric.
        reference: the reference's value.
        candidate: the candidate's.
        drop: loss of the candidate; None if the reference has nothing on these samples that
            could be lost.
        reason: why it is this metric.
        meaning: of a drop of 1%.
        details: further figures by name, for example recall and IoU of a detector.
    """

    name: str
    reference: float
    candidate: float
    drop: float | None = None
    reason: str = ""
    meaning: str = ""
    details: dict[str, float] = {}

    def __str__(self) -> str:
        if self.drop is None:
            return f"{self.name} undecided"
        text = f"{self.name} {self.reference:.4g} -> {self.candidate:.4g}"
        details = ", ".join(f"{name} {value:.4g}" for name, value in self.details.items())
        return f"{text} ({details})" if details else text


class ProposedRun:
    """A task metric over feeds; the first feeds are kept until the metric is chosen.

    Args:
        model: the reference.
        metric: what was asked for; None proposes.
        labels: one per sample, for metrics that take them.
    """

    def __init__(
        self, model: ir.Model, metric: MetricLike | None, labels: NDArray[Any] | None = None
    ) -> None:
        self._model, self._asked, self._labels = model, metric, labels
        self._first: list[tuple[Feed, Outputs, Outputs, int]] = []
        self._samples = self._nbytes = 0
        self._chosen: ChosenMetric | None = None
        self._run: MetricRun | None = None
        self._fits = True

    def add(self, feed: Feed, reference: Outputs, candidate: Outputs, samples: int) -> None:
        """Add the outputs of both models on one feed.

        Raises:
            OptionError: the metric does not fit the outputs.
        """
        if self._run is not None:
            self._run.add(reference, candidate, samples)
        if self._run is not None or not self._fits:
            return
        self._first.append((feed, reference, candidate, samples))
        self._samples += samples
        self._nbytes += sum(array.nbytes for array in reference.values())
        if self._samples >= MAX_OBSERVED or self._nbytes >= MAX_OBSERVED_BYTES:
            self._choose()

    def result(self) -> MetricPair | None:
        """The metric over all feeds so far; None if none was asked for and none fits.

        Raises:
            OptionError: the metric does not fit the outputs.
            SamplesError: there is not one label per sample.
        """
        if self._run is None and self._fits:
            self._choose()
        if self._run is None or self._chosen is None:
            return None
        losses, chosen = self._run.result(), self._chosen
        value, drop = losses.reference_value, losses.drop.value
        return MetricPair(
            name=chosen.name,
            reference=value,
            candidate=value - (drop or 0.0),
            drop=drop,
            reason=chosen.reason,
            meaning=chosen.metric.meaning,
            details={n: f.value for n, f in losses.figures.items() if f.value is not None},
        )

    def _choose(self) -> None:
        """Choose the metric, and measure the feeds that were kept."""
        runs = [(feed, reference, samples) for feed, reference, _, samples in self._first]
        self._chosen = _chosen(self._model, runs, self._asked, self._labels)
        if self._chosen is None:
            self._fits = False
        else:
            metric = self._chosen.metric
            self._run = MetricRun(
                metric if self._labels is None else metric.with_labels(self._labels)
            )
            for _, reference, candidate, samples in self._first:
                self._run.add(reference, candidate, samples)
        self._first.clear()


def _chosen(
    model: ir.Model,
    runs: list[tuple[Feed, Outputs, int]],
    asked: MetricLike | None,
    labels: NDArray[Any] | None,
) -> ChosenMetric | None:
    if asked is None and labels is None:
        return propose_metric(observe(model, runs))
    return choose_metric(asked, lambda: observe(model, runs), labelled=labels is not None)
