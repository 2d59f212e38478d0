"""Quality of a candidate: its outputs compared with the original's, as figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import SamplesError, VerificationError
from onnxlite.fidelity import common_outputs
from onnxlite.inputs import Feed, feed_size, input_specs
from onnxlite.ops import value_lengths
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike
from onnxlite.search.estimate import (
    Estimate,
    complement,
    decibels,
    largest_loss,
    mean_loss,
    noise_ratio,
    paired_drop,
    proportion,
)
from onnxlite.task_metrics import (
    MAX_OBSERVED,
    Agreement,
    Cosine,
    MetricLike,
    MetricRun,
    SampleLosses,
    Sqnr,
    TaskMetric,
    choose_metric,
    needs_real_lengths,
    observe,
    tensors,
)
from onnxlite.tied_lengths import tie_lengths, tie_like

Array64 = NDArray[np.float64]

#: The original's outputs are kept up to this size, so that it runs once and not per candidate.
MAX_KEPT_BYTES = 1 << 28
CONFIDENCE = 0.95


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of a candidate on a set of samples.

    Attributes:
        metric: name of the metric.
        reference: the original's value of it.
        candidate: the candidate's.
        samples: number of samples.
        figures: by the names in `budget.LIMITS`, those on quality, with their intervals. Each
            is of the output where it is worst.
        details: further figures of the metric, for example recall and IoU of a detector.
    """

    metric: str
    reference: float
    candidate: float
    samples: int
    figures: dict[str, Estimate]
    details: dict[str, float] = {}

    @property
    def drop(self) -> float:
        """Loss of the metric."""
        return self.figures["drop"].value

    def __str__(self) -> str:
        text = f"{self.metric} {self.reference:.4g} -> {self.candidate:.4g}"
        if self.details:
            text += f" ({', '.join(f'{name} {value:.4g}' for name, value in self.details.items())})"
        return f"{text} on {self.samples} samples"


class OutputScores:
    """Figures of one output per sample.

    Attributes:
        name: of the output.
        largest: largest absolute difference, float64[samples].
        broken: number of values that are finite in one model and NaN or infinite in the other.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.largest = np.empty(0, np.float64)
        self.broken = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], samples: int) -> None:
        """Add the output of one feed; one without an axis of samples counts as one sample.

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
        if reference.dtype.kind in "fV":
            self._add_floats(one.astype(np.float64), two.astype(np.float64))
        else:
            self._append((one != two).any(axis=1).astype(np.float64))

    def _add_floats(self, a: Array64, b: Array64) -> None:
        finite = np.isfinite(a) & np.isfinite(b)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        self.broken += int(np.count_nonzero(~finite & ~alike))
        error = np.where(finite, a, 0.0) - np.where(finite, b, 0.0)
        self._append(np.abs(error).max(axis=1, initial=0.0))

    def _append(self, largest: Array64) -> None:
        self.largest = np.concatenate([self.largest, largest])


class _Comparison:
    """Outputs of a candidate beside those of the original, feed by feed.

    Attributes:
        outputs: figures per sample of each output, by name.
        runs: task metrics by name: that of the drop, and those that a budget may limit.
    """

    def __init__(self, metrics: Mapping[str, TaskMetric], *, varying: bool = False) -> None:
        self._varying = varying
        self.outputs: dict[str, OutputScores] = {}
        self.runs = {name: MetricRun(metric) for name, metric in metrics.items()}

    def add(self, reference: Outputs, candidate: Outputs, samples: int) -> None:
        """Add the outputs of one feed.

        Raises:
            VerificationError: the outputs differ in names, shapes or kinds.
        """
        if reference.keys() != candidate.keys():
            raise VerificationError(
                f"its outputs are {list(candidate)}, they were {list(reference)}"
            )
        reference, candidate = common_outputs(reference, candidate, varying=self._varying)
        for name, array in reference.items():
            self.outputs.setdefault(name, OutputScores(name)).add(array, candidate[name], samples)
        for run in self.runs.values():
            run.add(reference, candidate, samples)

    def check_finite(self) -> None:
        """Raise `VerificationError` for values that are finite in one model only."""
        for scores in self.outputs.values():
            if scores.broken:
                raise VerificationError(
                    f"output {scores.name!r} has {scores.broken} NaN or infinite values where the "
                    "original has none, or the other way round"
                )


class QualityEvaluator:
    """Compares candidates with one original on one set of samples.

    Args:
        model: the original.
        samples: inputs of both.
        metric: what `drop` is measured in; None proposes the one that fits the outputs.
        labels: for the metric, one entry per sample.
        threads: of ONNX Runtime; None takes all cores.

    Attributes:
        metric: what was chosen, and why.
        samples: number of samples.

    Raises:
        OptionError: the metric does not fit the outputs.
        SamplesError: the samples do not fit, or there is not one label per sample.
        ExecutionError: ONNX Runtime does not run the original.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: SamplesLike,
        metric: MetricLike | None,
        *,
        labels: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self._threads = threads
        self._varying = bool(value_lengths(model))
        real = needs_real_lengths(metric, labelled=labels is not None)
        ties = self._varying and not real
        tied = tie_lengths(model, samples, threads=threads) if ties else None
        self._lengths = None if tied is None else tied[0]
        if tied is not None:
            model, samples = tied[0].model, tied[1]
        self._feeds = Samples(samples, input_specs(model))
        self._session = Session(model, threads=threads)
        self._kept: list[Outputs] | None = []
        self.samples = kept_bytes = 0
        first: list[tuple[Feed, Outputs, int]] = []
        for feed in self._feeds:
            outputs, count = tensors(self._session.run(feed)), feed_size(feed, self._feeds.inputs)
            if self.samples < MAX_OBSERVED:
                first.append((feed, outputs, count))
            self.samples += count
            kept_bytes += sum(array.nbytes for array in outputs.values())
            if kept_bytes > MAX_KEPT_BYTES:
                self._kept = None
            if self._kept is not None:
                self._kept.append(outputs)
        observed = observe(model, first)
        if labels is not None and len(labels) != self.samples:
            raise SamplesError(
                f"{len(labels)} labels for {self.samples} samples: give one per sample"
            )
        self.metric = choose_metric(metric, lambda: observed, labelled=labels is not None)
        noise, cosine = (each.propose(observed, strict=False) for each in (Sqnr, Cosine))
        classes = Agreement.propose(observed, strict=True) or Agreement.propose(
            observed, strict=False
        )
        proposals = {"sqnr_db": noise, "agreement": classes, "cosine": cosine}
        self._metrics = {name: p.metric for name, p in proposals.items() if p is not None}
        self._metrics["drop"] = self.metric.metric.with_labels(labels)

    def evaluate(self, model: ir.Model) -> Quality:
        """Measure the quality of a candidate.

        Raises:
            VerificationError: an output has another shape, or is NaN or infinite where the
                original's is not.
            ExecutionError: ONNX Runtime does not run it.
        """
        if self._lengths is not None:
            other = tie_like(self._lengths, model)
            if other is None:
                raise VerificationError("it has lost values that decide the lengths of outputs")
            model = other.model
        session = Session(model, threads=self._threads)
        comparison = _Comparison(self._metrics, varying=self._varying)
        for index, feed in enumerate(self._feeds):
            reference = (
                tensors(self._session.run(feed)) if self._kept is None else self._kept[index]
            )
            candidate = tensors(session.run(feed))
            comparison.add(reference, candidate, feed_size(feed, self._feeds.inputs))
        comparison.check_finite()
        losses = {name: run.result() for name, run in comparison.runs.items()}
        drop = losses["drop"]
        figures = {"drop": _drop(drop), "max_error": _largest_error(comparison.outputs)}
        if "sqnr_db" in losses:
            figures["sqnr_db"] = decibels(_drop(losses["sqnr_db"]))
        for name in ("agreement", "cosine"):
            if name in losses:
                figures[name] = complement(_drop(losses[name]))
        return Quality(
            metric=self.metric.name,
            reference=drop.reference_value,
            candidate=drop.reference_value - figures["drop"].value,
            samples=self.samples,
            figures=figures,
            details={name: f.value for name, f in drop.figures.items() if f.value is not None},
        )


def _largest_error(outputs: Mapping[str, OutputScores]) -> Estimate:
    """Largest error of all outputs."""
    worst = max(outputs.values(), key=lambda output: float(output.largest.max(initial=0.0)))
    return largest_loss(worst.largest)


def _drop(losses: SampleLosses) -> Estimate:
    """Estimate a loss with its interval, which depends on what samples can lose.

    Where the original has nothing that could be lost the drop is anything from 0 to 1.
    """
    total, weight = losses.drop.total, losses.drop.weight
    if not losses.decided:
        return Estimate(1.0 if total.sum() > 0 else 0.0, 0.0, 1.0)
    if losses.drop.is_single:
        return Estimate(float(total[0] / weight[0]))
    if (weight == 1).all() and np.isin(total, (-1, 0, 1)).all():
        if losses.reference is not None and np.isin(losses.reference, (0, 1)).all():
            reference = losses.reference
            return paired_drop(reference, reference - total, confidence=CONFIDENCE)
        if losses.reference is None:
            return proportion(int(total.sum()), len(total), confidence=CONFIDENCE)
    if losses.reference is None:
        return noise_ratio(weight, total, confidence=CONFIDENCE)
    both = np.concatenate([losses.reference, losses.reference - total])
    largest = 1.0 if both.min() >= 0 and both.max() <= 1 else None
    return mean_loss(total, confidence=CONFIDENCE, largest=largest)
