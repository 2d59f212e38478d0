"""Quality of a candidate: its outputs compared with the original's, as figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxlite.errors import OptionError, SamplesError, VerificationError
from onnxlite.evaluate.metrics import predicted_classes
from onnxlite.runtime import Outputs, Session
from onnxlite.samples import Samples, SamplesLike, feed_size, input_specs
from onnxlite.search.estimate import (
    Estimate,
    complement,
    decibels,
    mean_loss,
    noise_ratio,
    paired_drop,
    proportion,
)
from onnxlite.search.metric import MetricLike, apply_metric, class_outputs, metric_name

Array64 = NDArray[np.float64]

#: The original's outputs are kept up to this size, so that it runs once and not per candidate.
MAX_KEPT_BYTES = 1 << 28
CONFIDENCE = 0.95
_TINY = 1e-300


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of a candidate on a set of samples.

    Attributes:
        metric: name of the metric.
        reference: the original's value of it.
        candidate: the candidate's.
        samples: number of samples.
        figures: by the names in `budget.LIMITS`, those on quality, with their intervals. Each
            is of the output where it is worst.
    """

    metric: str
    reference: float
    candidate: float
    samples: int
    figures: dict[str, Estimate]

    @property
    def drop(self) -> float:
        """Loss of the metric."""
        return self.figures["drop"].value

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.reference:.4g} -> {self.candidate:.4g} on {self.samples} samples"
        )


class OutputScores:
    """Figures of one output per sample.

    Attributes:
        name: of the output.
        signal: sum of squares of the reference's values, float64[samples].
        noise: sum of squares of the difference, float64[samples].
        cosine: cosine similarity, float64[samples].
        largest: largest absolute difference, float64[samples].
        same: 1 where the largest entry is at the same place, or where integers and text are
            equal; else 0, float64[samples].
        width: values per sample.
        peak: largest absolute finite value of the reference; None unless it holds floats.
        broken: number of values that are finite in one model and NaN or infinite in the other.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.empty(0, np.float64) for _ in range(5)
        )
        self.width = 0
        self.peak: float | None = None
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
        self.width = max(self.width, one.shape[1])
        if reference.dtype.kind in "fV":
            self._add_floats(one.astype(np.float64), two.astype(np.float64))
        else:
            equal = (one == two).all(axis=1).astype(np.float64)
            self._append(np.ones(rows), 1 - equal, equal, 1 - equal, equal)

    def _add_floats(self, a: Array64, b: Array64) -> None:
        finite = np.isfinite(a) & np.isfinite(b)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        self.broken += int(np.count_nonzero(~finite & ~alike))
        self.peak = max(self.peak or 0.0, float(np.abs(a[np.isfinite(a)]).max(initial=0.0)))
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = a - b
        signal, noise = np.square(a).sum(axis=1), np.square(error).sum(axis=1)
        norms = np.sqrt(signal) * np.linalg.norm(b, axis=1)
        # Two zero vectors point the same way; a zero and a non-zero one do not.
        cosine = np.where(noise > 0, 0.0, 1.0)
        np.divide((a * b).sum(axis=1), norms, out=cosine, where=norms > 0)
        same = (a.argmax(axis=1) == b.argmax(axis=1)) if a.shape[1] else np.ones(len(a))
        largest = np.abs(error).max(axis=1, initial=0.0)
        self._append(signal, noise, cosine, largest, same.astype(np.float64))

    def _append(self, *parts: Array64) -> None:
        present = (self.signal, self.noise, self.cosine, self.largest, self.same)
        self.signal, self.noise, self.cosine, self.largest, self.same = (
            np.concatenate([old, new]) for old, new in zip(present, parts, strict=True)
        )


class _Comparison:
    """Outputs of a candidate beside those of the original, feed by feed.

    Attributes:
        outputs: figures per sample of each output, by name.
        pairs: all outputs of both models, if the metric is a function of them.
        classes: predicted classes of both models, if the metric is accuracy.
    """

    def __init__(self, metric: MetricLike, class_output: str | None) -> None:
        self.outputs: dict[str, OutputScores] = {}
        self.pairs: list[tuple[Outputs, Outputs]] = []
        self.classes: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
        self._metric, self._class_output = metric, class_output

    def add(self, reference: Outputs, candidate: Outputs, samples: int) -> None:
        """Add the outputs of one feed.

        Raises:
            VerificationError: the outputs differ in names, shapes or kinds.
        """
        if reference.keys() != candidate.keys():
            raise VerificationError(
                f"its outputs are {list(candidate)}, they were {list(reference)}"
            )
        for name, array in reference.items():
            self.outputs.setdefault(name, OutputScores(name)).add(array, candidate[name], samples)
        if self._metric == "accuracy":
            assert self._class_output is not None
            for kept, outputs in zip(self.classes, (reference, candidate), strict=True):
                kept.append(predicted_classes(outputs[self._class_output]))
        if callable(self._metric):
            self.pairs.append((reference, candidate))

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
        metric: what `drop` is measured in.
        labels: for the metric, one entry per sample.
        threads: of ONNX Runtime; None takes all cores.

    Raises:
        SamplesError: the samples do not fit, or there is not one label per sample.
        ExecutionError: ONNX Runtime does not run the original.
    """

    def __init__(
        self,
        model: ir.Model,
        samples: SamplesLike,
        metric: MetricLike,
        *,
        labels: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> None:
        self._metric, self._labels, self._threads = metric, labels, threads
        self._specs = input_specs(model)
        self._feeds = Samples(samples, self._specs)
        self._session = Session(model, threads=threads)
        self._kept: list[Outputs] | None = []
        self.samples = kept_bytes = 0
        for feed in self._feeds:
            outputs = _arrays(self._session.run(feed))
            self.samples += feed_size(feed, self._specs)
            kept_bytes += sum(array.nbytes for array in outputs.values())
            if kept_bytes > MAX_KEPT_BYTES:
                self._kept = None
            if self._kept is not None:
                self._kept.append(outputs)
        tables = [name for name in outputs if outputs[name].ndim == 2]
        self._class_outputs = class_outputs(model) or tables[:1]
        if labels is not None and len(labels) != self.samples:
            raise SamplesError(
                f"{len(labels)} labels for {self.samples} samples: give one per sample"
            )

    def evaluate(self, model: ir.Model) -> Quality:
        """Measure the quality of a candidate.

        Raises:
            VerificationError: an output has another shape, or is NaN or infinite where the
                original's is not.
            ExecutionError: ONNX Runtime does not run it.
        """
        session = Session(model, threads=self._threads)
        comparison = _Comparison(self._metric, next(iter(self._class_outputs), None))
        for index, feed in enumerate(self._feeds):
            reference = (
                _arrays(self._session.run(feed)) if self._kept is None else self._kept[index]
            )
            candidate = _arrays(session.run(feed))
            comparison.add(reference, candidate, feed_size(feed, self._specs))
        comparison.check_finite()
        figures = _figures(comparison.outputs, self._class_outputs)
        reference_value, candidate_value, drop = self._drop(figures, comparison)
        return Quality(
            metric=metric_name(self._metric),
            reference=reference_value,
            candidate=candidate_value,
            samples=self.samples,
            figures={"drop": drop, **figures},
        )

    def _drop(
        self, figures: Mapping[str, Estimate], comparison: _Comparison
    ) -> tuple[float, float, Estimate]:
        """The metric of both models, and its loss."""
        match self._metric:
            case "accuracy":
                assert self._labels is not None
                labels = self._labels
                one, two = (
                    (np.concatenate(kept) == labels).astype(np.float64)
                    for kept in comparison.classes
                )
                drop = paired_drop(one, two, confidence=CONFIDENCE)
                return float(one.mean()), float(two.mean()), drop
            case "agreement" | "cosine":
                if self._metric not in figures:
                    raise OptionError(
                        f"no output has a {self._metric}: choose another metric, for example sqnr"
                    )
                figure = figures[self._metric]
                return 1.0, figure.value, complement(figure)
            case "sqnr":
                noise = _noise(comparison.outputs)
                return 1.0, 1 - noise.value, noise
            case "max-error":
                relative = max(
                    float(o.largest.max(initial=0.0))
                    / (1.0 if o.peak is None else max(o.peak, _TINY))
                    for o in comparison.outputs.values()
                )
                return 1.0, 1 - relative, Estimate(relative)
            case function:
                assert callable(function)
                values = [
                    apply_metric(
                        function, _concatenated([p[i] for p in comparison.pairs]), self._labels
                    )
                    for i in (0, 1)
                ]
                return _task_drop(values[0], values[1])


def _figures(outputs: Mapping[str, OutputScores], class_names: list[str]) -> dict[str, Estimate]:
    """SQNR, largest error, cosine similarity and agreement, each of the worst output."""
    figures = {
        "sqnr_db": decibels(_noise(outputs)),
        # The largest of n errors has no interval: an unseen one may be larger.
        "max_error": Estimate(max(float(o.largest.max(initial=0.0)) for o in outputs.values())),
    }
    if vectors := [o for o in outputs.values() if o.width > 1]:
        worst = min(vectors, key=lambda o: float(o.cosine.mean()))
        figures["cosine"] = complement(
            mean_loss(1 - worst.cosine, confidence=CONFIDENCE, largest=1.0)
        )
    if ranked := [outputs[name] for name in class_names if name in outputs]:
        worst = min(ranked, key=lambda o: float(o.same.mean()))
        figures["agreement"] = proportion(
            int(worst.same.sum()), len(worst.same), confidence=CONFIDENCE
        )
    return figures


def _noise(outputs: Mapping[str, OutputScores]) -> Estimate:
    """Noise over signal of the output where it is largest."""
    worst = max(outputs.values(), key=lambda o: o.noise.sum() / max(o.signal.sum(), _TINY))
    return noise_ratio(worst.signal, worst.noise, confidence=CONFIDENCE)


def _task_drop(one: float | Array64, two: float | Array64) -> tuple[float, float, Estimate]:
    """The values of a task metric and their difference, with an interval if per sample."""
    if isinstance(one, float) or isinstance(two, float):
        first, second = float(np.mean(one)), float(np.mean(two))
        return first, second, Estimate(first - second)
    scores = np.concatenate([one, two])
    largest = 1.0 if scores.min() >= 0 and scores.max() <= 1 else None
    drop = mean_loss(one - two, confidence=CONFIDENCE, largest=largest)
    return float(one.mean()), float(two.mean()), drop


def _arrays(outputs: dict[str, Any]) -> Outputs:
    """The outputs without sequences and maps."""
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def _concatenated(parts: list[Outputs]) -> Outputs:
    """All feeds' outputs as one array each, samples along the first axis."""
    try:
        return {
            name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]
        }
    except ValueError as error:
        raise OptionError(
            f"an output has another shape on every feed, so the metric cannot see all of them "
            f"at once: {error}; give samples of one size"
        ) from error
